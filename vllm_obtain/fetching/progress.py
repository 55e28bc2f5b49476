"""How far a fetch is: what the child process prints, line by line, and reading it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from vllm_obtain.errors import FetchFailed, ServiceError

Stage = Literal[
    "looking", "waiting", "downloading", "checking", "staged", "loading", "done", "failed"
]
# Said at the end when there was nothing to do.
CURRENT: Final = "It is as its source has it."

_WINDOW: Final = 10.0  # seconds over which the rate is taken


class Progress(Struct, frozen=True, omit_defaults=True):
    """How far it is.

    Args:
        stage: what happens now; `waiting`: another process fetches the same; `staged`: a new
            version is whole, and not yet in place; `loading`: an engine tries it.
        name: the model's, once it is known.
        source: who gives it.
        done: bytes that are here.
        total: bytes there will be, 0 while nobody knows.
        rate: bytes a second.
        left: seconds, None while nobody knows.
        detail: the file it is about, or what went wrong and is tried again.
        path: the model's folder, at the end.
        report: what was found out, at the end of a look.
        error: what went wrong, at the end.
        status: the HTTP status of that.
        code: its machine-readable name.
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
        """Whether nothing comes after it."""
        return self.stage in ("staged", "done", "failed")

    @classmethod
    def of(cls, error: ServiceError, name: str = "") -> Progress:
        """Tell of a failure."""
        code = error.code or "fetch_failed"
        return cls("failed", name, error=error.message, status=error.status, code=code)

    def failure(self) -> ServiceError:
        """The failure that it tells of, to be raised."""
        status, code = self.status or FetchFailed.status, self.code or FetchFailed.code
        made = ServiceError(self.error, status=status, code=code, param="model", retry=False)
        made.type = "invalid_request_error" if status < 500 else "server_error"
        return made


Say = Callable[[Progress], None]


def line(said: Progress) -> str:
    """Write it as one line of JSON, without its end."""
    return msgspec.json.encode(said).decode()


def read_line(text: str) -> Progress | None:
    """Read such a line; None when it is something else."""
    try:
        return msgspec.json.decode(text, type=Progress)
    except (msgspec.MsgspecError, ValueError):
        return None


class Pace:
    """Tells a rate from how much there was at what time.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, done: int, total: int) -> tuple[float, float | None]:
        """Note how much there is.

        Returns:
            Bytes a second, and the seconds that are left (None when that cannot be told).
        """
        now = self._clock()
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # something was thrown away: a rate below zero says nothing
        self._seen.append((now, done))
        while now - self._seen[0][0] > _WINDOW and len(self._seen) > 2:
            self._seen.popleft()
        began, had = self._seen[0]
        rate = (done - had) / (now - began) if now > began else 0.0
        left = (total - done) / rate if rate > 0 and total else None
        return rate, left
