"""What an engine will be asked, written while the supervisor decides about the lease."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_obtain.engines.base import Adapter
from vllm_obtain.engines.client import Exchange
from vllm_obtain.errors import ServiceError
from vllm_obtain.messages import Granted
from vllm_obtain.protocol.task import Task

# Bytes, or tokens. A request may wait for its lease for minutes, and nobody shall hold a long
# prompt twice meanwhile.
LONGEST = 16_384


@dataclass(frozen=True)
class Draft:
    """A request as one engine takes it, and the connection that it will go over.

    Args:
        engine: the name of its adapter.
        socket: where it listens.
        exchange: not connected yet; whoever has the draft closes it.
        url: the path of the engine's route.
        body: what to send, as JSON.
    """

    engine: str
    socket: str
    exchange: Exchange
    url: str
    body: dict[str, Any]

    def fits(self, granted: Granted) -> bool:
        """Whether it is for the engine process that a lease names."""
        return self.engine == granted.engine and self.socket == granted.socket


class Drafting:
    """Writes the drafts of one request.

    Args:
        adapters: finds the adapter of an engine by its name.
        deadline: monotonic seconds after which an answer is of no use.
        pulse: as in `Exchange`.
        headers: for the engine, beside those of each request.
    """

    def __init__(
        self,
        adapters: Callable[[str], Adapter],
        deadline: float,
        pulse: float | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        self._adapters = adapters
        self._deadline = deadline
        self._pulse = pulse
        self._headers = headers
        self._guess: Draft | None = None

    def guess(self, last: Granted | None, task: Task) -> None:
        """Write for the engine that served the model last, which most likely does so again.

        Args:
            last: the lease before; None if there was none.
            task: what to do.
        """
        if last is None or task.images or task.length > LONGEST:
            return
        try:
            self._adapters(last.engine).check(task)
        except ServiceError:
            return  # it counts only if that engine is the one
        self._guess = self.write(last, task)

    def guessed(self, granted: Granted) -> Draft | None:
        """Take the draft that was written if it is for the right engine process."""
        guess = self._guess
        if guess is None or not guess.fits(granted):
            return None
        self._guess = None
        return guess

    def write(self, granted: Granted, task: Task) -> Draft:
        """Write for an engine.

        Args:
            granted: names it.
            task: what to do, checked by its adapter.
        """
        adapter = self._adapters(granted.engine)
        exchange = Exchange(granted.socket, self._deadline, self._pulse, self._headers)
        body = adapter.body(task, task.request.token_limit)
        return Draft(granted.engine, granted.socket, exchange, adapter.path(task), body)

    def close(self) -> None:
        """Drop the draft that nobody took."""
        if self._guess is not None:
            self._guess.exchange.close()
            self._guess = None
