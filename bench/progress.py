"""Progress of a long run on the terminal: step, round, elapsed and estimated remaining time."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

_TERMINAL_INTERVAL = 1.0
# Seconds between two lines of one step in a log file.
_LOG_INTERVAL = 30.0
_CLEAR_LINE = "\r\x1b[K"
# Share of a run from which its real duration corrects the estimate.
_MIN_SHARE = 0.05


@dataclass(frozen=True)
class Step:
    """A part of a run.

    Args:
        name: shown to the user.
        seconds: estimated duration; only the proportions between steps matter.
        rounds: number of rounds, 0 if the step ends by time.
    """

    name: str
    seconds: float
    rounds: int = 0


class Progress:
    """Shows how far a run is: one line in place on a terminal, otherwise a line now and then.

    Args:
        steps: all steps of the run, in order.
        ticker: whether a thread updates the line between two rounds.
        output: where the lines go; standard error by default.
    """

    def __init__(
        self, steps: Sequence[Step], *, ticker: bool = True, output: TextIO | None = None
    ) -> None:
        self._steps = steps
        self._output = output or sys.stderr
        self._terminal = self._output.isatty()
        self._start = self._step_start = time.monotonic()
        self._index = -1
        self._round = 0
        self._detail = ""
        self._last = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True) if ticker else None

    def __enter__(self) -> Progress:
        """Start the ticker."""
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the ticker and clear the line."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        if self._terminal:
            self._write(_CLEAR_LINE)

    def next_step(self) -> None:
        """Start the next step."""
        self._index += 1
        self._round, self._detail, self._step_start = 0, "", time.monotonic()
        self._show(force=True)

    def next_round(self) -> None:
        """Start the next round of the current step."""
        self.set_round(self._round + 1)

    def set_round(self, number: int) -> None:
        """Start a round of the current step; the first one is 1."""
        self._round = number
        self._show()

    def set_detail(self, detail: str) -> None:
        """Show more about the current step, such as a number of requests."""
        self._detail = detail
        self._show()

    def line(self) -> str:
        """Describe the current state."""
        step = self._steps[self._index]
        name = f"[{self._index + 1}/{len(self._steps)}] {step.name}"
        if step.rounds:
            name += f": round {max(1, self._round)} of {step.rounds}"
        detail = f", {self._detail}" if self._detail else ""
        elapsed = time.monotonic() - self._start
        remaining = self._remaining(elapsed)
        return f"{name}{detail}; elapsed {_minutes(elapsed)}, remaining about {_minutes(remaining)}"

    def _remaining(self, elapsed: float) -> float:
        total = sum(step.seconds for step in self._steps)
        done = sum(step.seconds for step in self._steps[: self._index])
        done += self._steps[self._index].seconds * self._fraction()
        # The real duration of the finished part corrects the estimate, once it is long enough.
        return (total - done) * (elapsed / done if done >= _MIN_SHARE * total else 1.0)

    def _fraction(self) -> float:
        """Share of the current step that is done."""
        step = self._steps[self._index]
        if step.rounds:
            return min(1.0, max(0, self._round - 1) / step.rounds)
        return min(0.99, (time.monotonic() - self._step_start) / max(step.seconds, 0.1))

    def _tick(self) -> None:
        while not self._closed.wait(_TERMINAL_INTERVAL):
            if self._index >= 0:
                self._show()

    def _show(self, force: bool = False) -> None:
        interval = _TERMINAL_INTERVAL if self._terminal else _LOG_INTERVAL
        with self._lock:
            now = time.monotonic()
            if not force and now - self._last < interval:
                return
            self._last = now
            line = self.line()
            if self._terminal:
                # A line that wraps cannot be cleared.
                columns = shutil.get_terminal_size().columns
                self._write(f"{_CLEAR_LINE}{line[: columns - 1]}")
            else:
                self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
