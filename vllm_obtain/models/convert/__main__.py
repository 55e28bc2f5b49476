"""The conversion process: `python -m vllm_obtain.models.convert --to mlx|hf SOURCE.gguf`.

`--to gguf FOLDER` converts a folder with an encoder.

Progress is printed as JSON lines; the last one names the folder. The exit status is 0 on success
and 1 after a `failed` line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vllm_obtain.errors import EngineFailed
from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.tensor_jobs import Target
from vllm_obtain.models.progress import Progress, print_progress, run_task


def main(arguments: Sequence[str]) -> int:
    """Convert a model for a command line.

    Args:
        arguments: the target, and the file or folder.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m vllm_obtain.models.convert")
    parser.add_argument("--to", choices=("mlx", "hf", "gguf"), required=True)
    parser.add_argument("source", type=Path)
    options = parser.parse_args(arguments)
    return run_task(lambda: _convert(options.source.absolute(), options.to))


def _convert(source: Path, target: Target) -> Progress:
    try:
        from vllm_obtain.models.convert.convert import convert

        folder = convert(source, target, print_progress)
    except ImportError as error:
        raise _failure(
            f"Conversion requires {error.name}. Install it: pip install 'vllm-obtain[convert]'."
        ) from error
    except ConversionError as error:
        raise _failure(str(error)) from error
    return Progress("done", path=str(folder))


def _failure(reason: str) -> EngineFailed:
    return EngineFailed(reason, status=503, code="conversion_failed", retry=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
