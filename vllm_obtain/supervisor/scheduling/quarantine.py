"""Quarantine: rejects requests that crash engines.

After a crash, a stall or an end because of memory, every request that was in flight is a suspect.
Suspects run again one at a time, each alone on the engine at first (`admission`). A suspect that
ends the engine while it is the only request in flight is quarantined. One that completes is
cleared. Company at two crashes proves nothing: a long request may run beside two others that crash
the engine one after the other (docs/decisions/06-quarantine.md has the figures). Only fingerprints
of requests are stored, never their text.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vllm_obtain.control.messages import (
    ClearQuarantine,
    ListQuarantine,
    QuarantineCleared,
    QuarantineEntry,
    QuarantineReply,
)
from vllm_obtain.errors import RequestQuarantined
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.supervisor.handlers import Handlers

log = get_logger("vllm_obtain.models")

# Crashes after which a request may be quarantined: an engine may also crash by itself.
CRASHES = 2
# Seconds that a suspect runs alone. Most crashes show within them. After a second crash it is
# longer than the request ran before, up to a limit, because other requests wait meanwhile.
PROBATION = 5.0
LONGEST_PROBATION = 60.0
_PROBATION_FACTOR = 1.5
# Maximum number of suspects; the oldest are dropped.
MAX_SUSPECTS = 1000
# Signals of a process's own faults. Other signals were sent by another process.
_OWN_FAULTS = frozenset(
    128 + number
    for number in (
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGTRAP,
        signal.SIGSYS,
    )
)
_SIGNALS = 128


def caused_itself(status: int) -> bool:
    """Whether an engine ended by its own fault: by a crash or by an exit with an error.

    Args:
        status: exit status of `EngineProcess.wait`; negative if its guard was killed.
    """
    return 0 < status <= _SIGNALS or status in _OWN_FAULTS


class InFlight(NamedTuple):
    """A request in flight at a crash.

    Args:
        fingerprint: content hash of the request, empty if unknown.
        seconds: time since its admission.
    """

    fingerprint: bytes
    seconds: float


@dataclass
class _Suspect:
    model: str
    engine: str
    crashes: int
    seconds: float
    status: int
    at: float
    since: float
    quarantined: bool = False


class Quarantine:
    """The suspects and the quarantined requests of a service.

    Args:
        seconds: duration of a suspicion and of a quarantine; 0 disables both.
        clock: monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._suspects: dict[bytes, _Suspect] = {}
        self.handlers: Handlers = {
            ListQuarantine: lambda _: QuarantineReply(self.quarantined),
            ClearQuarantine: lambda _: QuarantineCleared(self.clear()),
        }

    @property
    def quarantined(self) -> list[QuarantineEntry]:
        """The quarantined requests, those of the last crash first."""
        self._expire()
        now = self._clock()
        entries = [
            QuarantineEntry(
                id=fingerprint.hex(),
                model=each.model,
                engine=each.engine,
                crashes=each.crashes,
                status=each.status,
                since=each.since,
                seconds_left=round(each.at + self._seconds - now, 1),
            )
            for fingerprint, each in self._suspects.items()
            if each.quarantined
        ]
        return sorted(entries, key=lambda each: -each.since)

    def check(self, fingerprint: bytes, engine: str) -> float:
        """Check a request before its admission.

        Args:
            fingerprint: content hash of the request, empty if unknown.
            engine: name of the engine. Another engine may not have the same fault.

        Returns:
            Seconds that it must run alone because it is a suspect; 0 otherwise.

        Raises:
            RequestQuarantined: it has crashed this engine repeatedly.
        """
        if not self._suspects or fingerprint not in self._suspects:
            return 0.0
        self._expire()
        suspect = self._suspects.get(fingerprint)
        if suspect is None or suspect.engine != engine:
            return 0.0
        if suspect.quarantined:
            seconds_left = suspect.at + self._seconds - self._clock()
            raise RequestQuarantined(
                f"This request crashed or stalled its engine ({engine}), or exceeded the engine's "
                f"memory limit, {suspect.crashes} times. It is quarantined for "
                f"{seconds_left:.0f} s. Change the prompt or the parameters. The operator can find "
                "the reason in errors.log and clear the quarantine with DELETE /v1/quarantine."
            )
        if suspect.crashes < CRASHES:
            return PROBATION
        return min(max(PROBATION, _PROBATION_FACTOR * suspect.seconds), LONGEST_PROBATION)

    def record_crash(
        self, model: str, engine: str, status: int, in_flight: Sequence[InFlight]
    ) -> None:
        """Record a crash, and quarantine the request that caused it, if it is known.

        Args:
            model: name of the model.
            engine: name of the engine, which was not ended by another process.
            status: exit status of the engine.
            in_flight: all requests in flight.
        """
        if not self._seconds:
            return
        self._expire()
        longest: dict[bytes, float] = {}
        for fingerprint, seconds in in_flight:
            longest[fingerprint] = max(seconds, longest.get(fingerprint, 0.0))
        for fingerprint, seconds in longest.items():
            if fingerprint:
                self._suspect(fingerprint, seconds, model, engine, status)
        if len(longest) == 1:
            self._quarantine(next(iter(longest)))

    def clear_suspect(self, fingerprint: bytes) -> None:
        """Clear a suspect, since it completed without a crash."""
        suspect = self._suspects.get(fingerprint)
        if suspect is not None and not suspect.quarantined:
            del self._suspects[fingerprint]

    def clear(self) -> int:
        """Clear all suspects and quarantined requests; return the number of quarantined ones."""
        count = len(self.quarantined)
        self._suspects.clear()
        return count

    def _suspect(
        self, fingerprint: bytes, seconds: float, model: str, engine: str, status: int
    ) -> None:
        crashes = 1
        before = self._suspects.pop(fingerprint, None)
        if before is not None and before.engine == engine:
            crashes, seconds = before.crashes + 1, max(seconds, before.seconds)
        self._suspects[fingerprint] = _Suspect(
            model, engine, crashes, seconds, status, self._clock(), time.time()
        )
        while len(self._suspects) > MAX_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]
        log.warning(
            "request suspected", model=model, engine=engine, id=fingerprint.hex(), crashes=crashes
        )

    def _quarantine(self, fingerprint: bytes) -> None:
        suspect = self._suspects.get(fingerprint)
        if suspect is None or suspect.crashes < CRASHES:
            return
        suspect.quarantined = True
        log.error(
            "request quarantined",
            model=suspect.model,
            engine=suspect.engine,
            id=fingerprint.hex(),
            crashes=suspect.crashes,
            status=suspect.status,
            seconds=self._seconds,
        )

    def _expire(self) -> None:
        end = self._clock() - self._seconds
        for fingerprint in [each for each, suspect in self._suspects.items() if suspect.at <= end]:
            del self._suspects[fingerprint]
