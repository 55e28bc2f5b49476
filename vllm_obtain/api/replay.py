"""Answers that begin anew when their engine ends, as long as nothing of them has gone out.

`generate.py` does so by itself until the first token. What comes after that may still be held back
here: all of a plain answer, and of a stream what is read before it is known what it means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeVar

from vllm_obtain.api.endurance import Endurance
from vllm_obtain.chat.prepare import Prepared
from vllm_obtain.engines.client import EngineLost
from vllm_obtain.protocol.events import Event
from vllm_obtain.supervisor.client import SupervisorLost

Batches = Iterator[list[Event]]
T = TypeVar("T")


class Replay:
    """One request's answer, from as many beginnings as it takes.

    Args:
        prepared: reads the engine's events.
        begin: begins a generation; what it holds goes on the stack.
        endurance: how often.
        model: the model's name, for the log.
    """

    def __init__(
        self,
        prepared: Prepared,
        begin: Callable[[ExitStack], Batches],
        endurance: Endurance,
        model: str,
    ) -> None:
        self._prepared = prepared
        self._begin = begin
        self._endurance = endurance
        self._model = model

    def whole(self, joined: Callable[[Batches], T]) -> T:
        """Have the events joined into one answer.

        Raises:
            ServiceError, ClientGone: as a generation does.
        """
        while True:
            try:
                with ExitStack() as held:
                    return joined(self._prepared.read(self._begin(held)))
            except (EngineLost, SupervisorLost) as error:
                self._outlast(error)

    def events(self) -> Batches:
        """Yield the events as they come; close it in any case.

        Raises:
            ServiceError, ClientGone: as a generation does.
        """
        spoken = False
        while True:
            try:
                with ExitStack() as held:
                    for events in self._prepared.read(self._begin(held)):
                        spoken = spoken or bool(events)
                        yield events
                    return
            except (EngineLost, SupervisorLost) as error:
                if spoken:
                    raise
                self._outlast(error)

    def _outlast(self, error: EngineLost | SupervisorLost) -> None:
        if not error.midway:
            raise error  # it was asked again already, and too often
        # Whichever process it was is gone: each time is another one.
        self._endurance.outlast(error, time.monotonic(), self._model)
