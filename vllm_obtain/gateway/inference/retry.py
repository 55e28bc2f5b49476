"""Retries: a request whose engine or supervisor ends starts again while its client has no token."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

from vllm_obtain.control.client import SupervisorLost
from vllm_obtain.engines.connection import EngineConnectionLost
from vllm_obtain.gateway.core.cancellation import CancelToken
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.protocol.events import Event

log = get_logger("vllm_obtain.generate")

Batches = Iterator[list[Event]]
Attempt = Callable[[], Generator[list[Event], None, None]]
Lost = EngineConnectionLost | SupervisorLost
T = TypeVar("T")

# Engine processes that one request may see the end of. A request that crashes engines is stopped
# long before by the quarantine; this limit is for a request that others' crashes hit.
MAX_PROCESSES = 8
# Attempts with one process, or with none.
MAX_TRIES = 6
# Seconds before the second attempt, doubled for each further one, 3 s in all: a supervisor may have
# to start, and the supervisor checks an engine that broke a connection before it grants a lease.
PAUSE = 0.1


class RetryPolicy:
    """Decides whether one request is tried again, and waits before the next attempt.

    Args:
        cancel: fires when nobody wants the response any more.
        model: the model's name, for the log.
    """

    def __init__(self, cancel: CancelToken, model: str) -> None:
        self._cancel = cancel
        self._model = model
        self._processes: set[float] = set()
        self._tries = 0

    def call(self, attempt: Callable[[], T]) -> T:
        """Run a function until it succeeds.

        Raises:
            ServiceError, ClientDisconnected: what the last attempt raised.
        """
        while True:
            try:
                return attempt()
            except (EngineConnectionLost, SupervisorLost) as error:
                self.wait(error)

    def attempts(
        self, attempt: Attempt, read: Callable[[Batches], Batches]
    ) -> Generator[Iterable[list[Event]], None, None]:
        """Yield the events of a generation as parts; it starts again until there is an event.

        The last part is the rest of the generation itself. Chained by `itertools`, the parts cost
        no further frame per token.

        Args:
            attempt: starts a generation.
            read: turns the engine's events into those of the response.

        Raises:
            ServiceError, ClientDisconnected: what the last attempt raised.
        """
        while True:
            with contextlib.closing(attempt()) as batches:
                response = read(batches)
                try:
                    for events in response:
                        if events:
                            yield itertools.chain((events,), response)
                            return
                        yield (events,)
                    return
                except (EngineConnectionLost, SupervisorLost) as error:
                    lost = error
            self.wait(lost)

    def wait(self, error: Lost) -> None:
        """Wait before the next attempt.

        Raises:
            EngineConnectionLost, SupervisorLost: `error`, if it happened too often.
            ServiceError, ClientDisconnected: nobody waits for the response any more.
        """
        if self._cancel.is_cancelled:
            raise self._cancel.cause from None
        if error.process not in self._processes:
            self._processes.add(error.process)
            self._tries = 0
        self._tries += 1
        if len(self._processes) == MAX_PROCESSES or self._tries == MAX_TRIES:
            raise error
        log.warning("request retried", model=self._model, reason=error.message)
        time.sleep(PAUSE * 2 ** (self._tries - 1))
