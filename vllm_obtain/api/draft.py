"""What an engine will be asked, written while the supervisor decides about the lease."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_obtain.engines.base import Adapter
from vllm_obtain.engines.client import Exchange
from vllm_obtain.errors import ServiceError
from vllm_obtain.messages import Granted
from vllm_obtain.protocol.task import Task

# Tokens at most, as a lease asks for them. A request may wait for its lease for minutes, and nobody
# shall hold a long prompt twice meanwhile.
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

    def guess(self, last: Granted | None, task: Task, length: int) -> None:
        """Write for the engine that served the model last, which most likely does so again.

        Nothing that goes wrong here counts: it is found again when that engine is the one.

        Args:
            last: the lease before; None if there was none.
            task: what to do.
            length: of its prompt, in tokens at most.
        """
        if last is None or task.images or length > LONGEST:
            return
        with contextlib.suppress(ServiceError, OSError):
            self._adapters(last.engine).check(task)
            self._guess = self.write(last, task)

    def guessed(self, granted: Granted) -> Draft | None:
        """Take the draft that was written if it is for the right engine process."""
        if self._guess is None or not self._guess.fits(granted):
            self.close()
            return None
        guess, self._guess = self._guess, None
        return guess

    def write(self, granted: Granted, task: Task) -> Draft:
        """Write for an engine.

        Args:
            granted: names it.
            task: what to do, checked by its adapter.
        """
        adapter = self._adapters(granted.engine)
        body = adapter.body(task, task.request.token_limit)
        exchange = Exchange(granted.socket, self._deadline, self._pulse, self._headers)
        return Draft(granted.engine, granted.socket, exchange, adapter.path(task), body)

    def close(self) -> None:
        """Drop the draft that nobody took."""
        if self._guess is not None:
            self._guess.exchange.close()
            self._guess = None
