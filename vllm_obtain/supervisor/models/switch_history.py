"""The history of engine switches and failovers."""

from __future__ import annotations

import time
from collections import deque
from typing import Literal

from vllm_obtain.control.messages import EngineSwitch
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.metrics.registry import MetricsRegistry

log = get_logger("vllm_obtain.models")

KEPT = 50
Cause = Literal["switch", "failover", "update"]


class SwitchHistory:
    """The last engine switches of a service.

    Args:
        metrics: counts them.
    """

    def __init__(self, metrics: MetricsRegistry) -> None:
        self._metrics = metrics
        self._last: deque[EngineSwitch] = deque(maxlen=KEPT)

    @property
    def last(self) -> list[EngineSwitch]:
        """The last switches, the oldest first."""
        return list(self._last)

    def record_switch(
        self, model: str, source: str, to: str, cause: Cause, seconds: float, reason: str
    ) -> None:
        """Record a successful switch.

        Args:
            model: name of the model.
            source: the previous engine.
            to: the new engine.
            cause: cause of the switch.
            seconds: duration until the new engine was ready.
            reason: the reason, as a sentence.
        """
        self._metrics.count_switch(model, source, to, cause)
        self._add(EngineSwitch(time.time(), model, source, to, cause, seconds, reason))
        log.info("engine switched", model=model, engine=to, before=source, reason=reason)

    def record_failure(
        self, model: str, source: str, to: str, cause: Cause, seconds: float, problem: str
    ) -> None:
        """Record a failed switch; arguments as in `record_switch`."""
        self._add(EngineSwitch(time.time(), model, source, to, cause, seconds, "", problem))
        log.error("engine switch failed", model=model, engine=source, to=to, reason=problem)

    def _add(self, switch: EngineSwitch) -> None:
        self._last.append(switch)
