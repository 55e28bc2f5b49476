"""What is remembered of models that changed their engine."""

from __future__ import annotations

import time
from collections import deque
from typing import Literal

from vllm_obtain.log import get_logger
from vllm_obtain.messages import Handover
from vllm_obtain.metrics import Numbers

log = get_logger("vllm_obtain.models")

KEPT = 50
Cause = Literal["switch", "failover", "update"]


class Handovers:
    """The last hand-overs of a service.

    Args:
        numbers: where they are counted.
    """

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._last: deque[Handover] = deque(maxlen=KEPT)

    @property
    def last(self) -> list[Handover]:
        """The newest ones, the oldest of them first."""
        return list(self._last)

    def done(
        self, model: str, source: str, to: str, cause: Cause, seconds: float, reason: str
    ) -> None:
        """Note that an engine has taken over.

        Args:
            model: the model's name.
            source: the engine that served, or should have.
            to: the engine that serves now.
            cause: whether somebody asked for it.
            seconds: from the beginning until the new one was ready.
            reason: why, in a sentence.
        """
        self._numbers.handed_over(model, source, to, cause)
        self._note(Handover(time.time(), model, source, to, cause, seconds, reason))
        log.info("engine handed over", model=model, engine=to, before=source, reason=reason)

    def failed(
        self, model: str, source: str, to: str, cause: Cause, seconds: float, problem: str
    ) -> None:
        """Note that an engine was asked to take over and could not; arguments as in `done`."""
        self._note(Handover(time.time(), model, source, to, cause, seconds, "", problem))
        log.error("engine not handed over", model=model, engine=source, to=to, reason=problem)

    def _note(self, handover: Handover) -> None:
        self._last.append(handover)
