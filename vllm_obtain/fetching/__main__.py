"""The child process: `python -m vllm_obtain.fetching WHAT [--name N] [--format F] [--force]`.

With `--task update` it brings a new version of the model WHAT and leaves it beside the old one;
with `--task look` it compares models with their sources, with `--task verify` with their manifests.
Prints how far it is as lines of JSON, and ends with 0, or with 1 after a line that says why not.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from vllm_obtain.errors import InternalError, ServiceError, SettingsError
from vllm_obtain.fetching.comparing import look
from vllm_obtain.fetching.fetch import Request, fetch
from vllm_obtain.fetching.progress import CURRENT, Progress, line
from vllm_obtain.fetching.updating import stage
from vllm_obtain.fetching.verifying import verdicts
from vllm_obtain.settings import Settings, load_settings

_saying = threading.Lock()


def main(arguments: Sequence[str]) -> int:
    """Fetch a model for a process that reads lines.

    Args:
        arguments: what is wanted.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m vllm_obtain.fetching")
    parser.add_argument("what", nargs="*")
    parser.add_argument("--task", default="pull", choices=list(_TASKS))
    parser.add_argument("--name", default="")
    parser.add_argument("--format", default="")
    parser.add_argument("--force", action="store_true")
    asked = parser.parse_args(arguments)
    # Ends as an exception, so that what is open is closed; what has arrived stays.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        say(_TASKS[asked.task](asked, load_settings()))
    except ServiceError as error:
        say(Progress.of(error, asked.name))
        return 1
    except SettingsError as error:
        say(Progress.of(InternalError(str(error)), asked.name))
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


def _pull(asked: argparse.Namespace, settings: Settings) -> Progress:
    # Whoever asks over HTTP is elsewhere: paths of this machine are not theirs to name.
    what = " ".join(asked.what)
    wanted = Request(what, asked.name, asked.format, asked.force, here=False)
    folder = fetch(wanted, settings, say)
    return Progress("done", folder.name, path=str(folder))


def _update(asked: argparse.Namespace, settings: Settings) -> Progress:
    (name,) = asked.what
    folder = stage(name, settings, say)
    if folder is None:
        return Progress("done", name, detail=CURRENT)
    return Progress("staged", name, path=str(folder))


def _look(asked: argparse.Namespace, settings: Settings) -> Progress:
    return Progress("done", report=look(settings, asked.what))


def _verify(asked: argparse.Namespace, settings: Settings) -> Progress:
    return Progress("done", report=verdicts(settings.models_dir, asked.what))


_TASKS: dict[str, Callable[[argparse.Namespace, Settings], Progress]] = {
    "pull": _pull,
    "update": _update,
    "look": _look,
    "verify": _verify,
}


def say(said: Progress) -> None:
    """Print a line at once: somebody shows it to a waiting user."""
    with _saying:
        print(line(said), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
