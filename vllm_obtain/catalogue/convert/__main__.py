"""The child process: `python -m vllm_obtain.catalogue.convert --to mlx|hf SOURCE.gguf`.

Or `--to gguf FOLDER`, for a folder with an encoder.

Prints progress as lines of JSON, at last one with the folder, and ends with 0; or with 1 and one
sentence on the standard error.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.convert.progress import Progress, line


def main(arguments: Sequence[str]) -> int:
    """Convert a model for a command line.

    Args:
        arguments: the target, and the file or folder.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m vllm_obtain.catalogue.convert")
    parser.add_argument("--to", choices=("mlx", "hf", "gguf"), required=True)
    parser.add_argument("source", type=Path)
    asked = parser.parse_args(arguments)
    # Ends as an exception, so that half a folder is removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        from vllm_obtain.catalogue.convert.run import convert

        say(convert(asked.source.absolute(), asked.to, say))
    except ImportError as error:
        print(f"{error.name} is missing: pip install 'vllm-obtain[convert]'.", file=sys.stderr)
        return 1
    except ConversionError as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


def say(said: Progress | Path) -> None:
    """Print a line at once: somebody shows it to a waiting user."""
    print(line(said), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
