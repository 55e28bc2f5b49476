"""The child process: `python -m vllm_obtain.fetching WHAT [--name N] [--format F] [--force]`.

Prints how far it is as lines of JSON, and ends with 0, or with 1 after a line that says why not.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

from vllm_obtain.errors import InternalError, ServiceError, SettingsError
from vllm_obtain.fetching.fetch import Request, fetch
from vllm_obtain.fetching.progress import Progress, line
from vllm_obtain.settings import load_settings

_saying = threading.Lock()


def main(arguments: Sequence[str]) -> int:
    """Fetch a model for a process that reads lines.

    Args:
        arguments: what is wanted.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m vllm_obtain.fetching")
    parser.add_argument("what")
    parser.add_argument("--name", default="")
    parser.add_argument("--format", default="")
    parser.add_argument("--force", action="store_true")
    asked = parser.parse_args(arguments)
    # Ends as an exception, so that what is open is closed; what has arrived stays.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        # Whoever asks over HTTP is elsewhere: paths of this machine are not theirs to name.
        wanted = Request(asked.what, asked.name, asked.format, asked.force, here=False)
        folder = fetch(wanted, load_settings(), say)
        say(Progress("done", folder.name, path=str(folder)))
    except ServiceError as error:
        say(Progress.of(error, asked.name))
        return 1
    except SettingsError as error:
        say(Progress.of(InternalError(str(error)), asked.name))
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


def say(said: Progress) -> None:
    """Print a line at once: somebody shows it to a waiting user."""
    with _saying:
        print(line(said), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
