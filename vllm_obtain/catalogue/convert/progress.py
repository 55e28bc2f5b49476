"""How far a conversion is: the lines that the child process prints, and reading them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

_INTERVAL: Final = 0.2  # seconds between two lines, at least


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is.

    Args:
        done: bytes of the source that were read.
        total: all that will be.
        stage: `tokenizer`, `weights` or `saving`.
    """

    done: int
    total: int
    stage: str


def line(said: Progress | Path) -> str:
    """Write progress, or at the end the folder, as one line of JSON without its end."""
    return json.dumps({"folder": str(said)} if isinstance(said, Path) else asdict(said))


def read_line(text: str | bytes) -> Progress | Path:
    """Read such a line.

    Raises:
        ValueError: it is none.
    """
    content = json.loads(text)
    try:
        if "folder" in content:
            return Path(content["folder"])
        return Progress(int(content["done"]), int(content["total"]), str(content["stage"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no line of a conversion: {text!r}") from error


class Meter:
    """Counts bytes and reports now and then.

    Args:
        total: bytes in all.
        report: takes each report.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        total: int,
        report: Callable[[Progress], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._done = 0
        self._report = report
        self._clock = clock
        self._said = float("-inf")

    def stage(self, name: str) -> None:
        """Begin a stage, which is always reported."""
        self._stage = name
        self._say()

    def add(self, count: int) -> None:
        """Count bytes; reported if the last report is a while ago."""
        self._done += count
        if self._clock() - self._said >= _INTERVAL:
            self._say()

    def _say(self) -> None:
        self._said = self._clock()
        self._report(Progress(self._done, self._total, self._stage))
