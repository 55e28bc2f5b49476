"""Progress of a task on a model's files, and the process that runs it.

Downloads, updates, verifications and conversions run in child processes of the supervisor. Each
prints its progress as JSON lines; the last one has the result or the error. A supervisor of 0.1.0
reads the lines too, until it is upgraded.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from vllm_obtain.errors import FetchFailed, ServiceError

Stage = Literal[
    # of downloads and updates
    "looking",
    "waiting",
    "downloading",
    "checking",
    "staged",
    "loading",
    # of conversions
    "tokenizer",
    "weights",
    "saving",
    # of all
    "done",
    "failed",
]

_print_lock = threading.Lock()


class Progress(Struct, frozen=True, omit_defaults=True):
    """The progress of a task.

    Args:
        stage: the current step. `waiting`: another process downloads the same model; `staged`: a
            new version is complete but not installed; `loading`: an engine loads it as a test.
        name: the model's name, once it is known.
        source: the source of a download.
        done: bytes that are on disk, or that a conversion has read.
        total: bytes of the complete model, 0 if unknown.
        rate: bytes per second.
        left: estimated seconds to completion, None if unknown.
        detail: the current file, or the error that is being retried.
        path: the folder of the result, set on completion.
        report: the result of the tasks `look` and `verify`.
        error: the error message, if the task failed.
        status: the HTTP status of the error.
        code: the machine-readable code of the error.
    """

    stage: Stage
    name: str = ""
    source: str = ""
    done: int = 0
    total: int = 0
    rate: float = 0.0
    left: float | None = None
    detail: str = ""
    path: str = ""
    report: Any = None
    error: str = ""
    status: int = 0
    code: str = ""

    @property
    def is_over(self) -> bool:
        """Whether this is the last progress line."""
        return self.stage in ("staged", "done", "failed")

    @classmethod
    def of(cls, error: ServiceError) -> Progress:
        """Create the last line of a failed task."""
        code = error.code or "fetch_failed"
        return cls("failed", error=error.message, status=error.status, code=code)

    def failure(self) -> ServiceError:
        """Restore the error of a failed task, to be raised."""
        status, code = self.status or FetchFailed.status, self.code or FetchFailed.code
        error = ServiceError(self.error, status=status, code=code, param="model", retry=False)
        error.type = "invalid_request_error" if status < 500 else "server_error"
        return error


ProgressCallback = Callable[[Progress], None]


def line(progress: Progress) -> str:
    """Encode progress as one line of JSON, without a line break."""
    return msgspec.json.encode(progress).decode()


def read_line(text: str) -> Progress | None:
    """Decode a progress line; None if the text is something else."""
    try:
        return msgspec.json.decode(text, type=Progress)
    except (msgspec.MsgspecError, ValueError):
        return None


def print_progress(progress: Progress) -> None:
    """Print one progress line and flush it; safe to call from several threads."""
    with _print_lock:
        print(line(progress), flush=True)


def run_task(task: Callable[[], Progress]) -> int:
    """Run the task of this process, and print its last progress line.

    Args:
        task: returns the last progress; it may print others with `print_progress`.

    Returns:
        The exit status of the process: 0, 1 after a `failed` line, 130 if it was interrupted.
    """
    # SIGTERM raises SystemExit, so that open files are closed and partial results deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        print_progress(task())
    except ServiceError as error:
        print_progress(Progress.of(error))
        # A supervisor of 0.1.0 reports the last line of a failed conversion as the reason.
        print(error.message, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0
