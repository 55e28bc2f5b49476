"""Requests that crash engines: who is suspected, and who is refused. Pure, but for the clock.

A crash makes suspects of all that were in flight. Suspects are asked again one at a time, each
with the engine to itself (`admission`), so the next crash says who it was: the only one that was
there, or the only one that was there both times. That one is refused from then on; one that comes
to a good end is no suspect any more. What is kept of a request is a fingerprint, never its text.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vllm_obtain.errors import RequestQuarantined
from vllm_obtain.log import get_logger
from vllm_obtain.messages import Quarantined

log = get_logger("vllm_obtain.models")

# Crashes that a request has to be there for before it is refused.
CRASHES = 2
# Fingerprints that are kept; the oldest make room.
KEPT = 1000
# Signals by which a process dies of what it does itself; others come from somebody else.
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
    """Whether an engine is to blame for its own end: it crashed, or gave up with an error.

    Args:
        status: as `EngineProcess.wait` returns it; negative when its guard was killed.
    """
    return 0 < status <= _SIGNALS or status in _OWN_FAULTS


@dataclass
class _Suspect:
    model: str
    engine: str
    crashes: int
    status: int
    at: float
    since: float
    refused: bool = False


class Quarantine:
    """All suspects of a service.

    Args:
        seconds: how long a suspicion and a refusal last; 0 for no quarantine at all.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._suspects: dict[bytes, _Suspect] = {}

    @property
    def refused(self) -> list[Quarantined]:
        """Requests that are refused, those of the last crash first."""
        self._expire()
        now = self._clock()
        found = [
            Quarantined(
                id=fingerprint.hex(),
                model=each.model,
                engine=each.engine,
                crashes=each.crashes,
                status=each.status,
                since=each.since,
                seconds_left=round(each.at + self._seconds - now, 1),
            )
            for fingerprint, each in self._suspects.items()
            if each.refused
        ]
        return sorted(found, key=lambda each: -each.since)

    def vet(self, fingerprint: bytes, engine: str) -> bool:
        """Look at a request before an engine gets it.

        Args:
            fingerprint: of what it asks, empty when that is not known.
            engine: the engine's name; another one may not have the same fault.

        Returns:
            Whether it is a suspect, and has to be asked alone.

        Raises:
            RequestQuarantined: it has crashed this engine before.
        """
        if not self._suspects or fingerprint not in self._suspects:
            return False
        self._expire()
        suspect = self._suspects.get(fingerprint)
        if suspect is None or suspect.engine != engine:
            return False
        if suspect.refused:
            raise RequestQuarantined(
                f"This request has ended its engine ({engine}) {suspect.crashes} times and is not "
                f"asked again for {suspect.at + self._seconds - self._clock():.0f} s. Change the "
                "prompt or the parameters, or have the owner of the service look at errors.log and "
                "clear it with DELETE /v1/quarantine."
            )
        return True

    def crashed(self, model: str, engine: str, status: int, there: Sequence[bytes]) -> None:
        """Find out who it was.

        Args:
            model: the model's name.
            engine: the name of the engine that crashed by its own fault.
            status: its exit status.
            there: the fingerprints of all that it had, empty ones too.
        """
        if not self._seconds:
            return
        self._expire()
        before = {each for each in there if self._crashes(each, engine)}
        for fingerprint in filter(None, set(there)):
            self._suspect(fingerprint, model, engine, status)
        # Beside one that was there before, those that were not are innocent so far.
        culprits = before or set(there)
        if len(culprits) == 1:
            self._judge(culprits.pop())

    def cleared(self, fingerprint: bytes) -> None:
        """Note that a request came to a good end."""
        suspect = self._suspects.get(fingerprint)
        if suspect is not None and not suspect.refused:
            del self._suspects[fingerprint]

    def clear(self) -> int:
        """Refuse and suspect nobody any more; returns how many were refused."""
        count = len(self.refused)
        self._suspects.clear()
        return count

    def _crashes(self, fingerprint: bytes, engine: str) -> int:
        suspect = self._suspects.get(fingerprint)
        return suspect.crashes if suspect is not None and suspect.engine == engine else 0

    def _suspect(self, fingerprint: bytes, model: str, engine: str, status: int) -> None:
        crashes = self._crashes(fingerprint, engine) + 1
        self._suspects.pop(fingerprint, None)
        now = self._clock()
        self._suspects[fingerprint] = _Suspect(model, engine, crashes, status, now, time.time())
        while len(self._suspects) > KEPT:
            del self._suspects[next(iter(self._suspects))]
        log.warning(
            "request suspected", model=model, engine=engine, id=fingerprint.hex(), crashes=crashes
        )

    def _judge(self, fingerprint: bytes) -> None:
        suspect = self._suspects.get(fingerprint)
        if suspect is None or suspect.crashes < CRASHES:
            return
        suspect.refused = True
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
