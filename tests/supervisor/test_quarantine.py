"""Who is suspected of a crash, and who is refused."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import DONE, Rig, in_loop, rig, turn
from vllm_obtain.control.messages import AcquireLease
from vllm_obtain.errors import RequestQuarantined
from vllm_obtain.supervisor.leases import Lease
from vllm_obtain.supervisor.scheduling import quarantine
from vllm_obtain.supervisor.scheduling.quarantine import InFlight, Quarantine, caused_itself

SEGV = 128 + signal.SIGSEGV


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def crash(them: Quarantine, *there: bytes, engine: str = "e", seconds: float = 1.0) -> None:
    them.record_crash("m", engine, SEGV, [InFlight(each, seconds) for each in there])


def quarantined_ids(them: Quarantine) -> list[str]:
    return [each.id for each in them.quarantined]


@pytest.mark.parametrize("number", ["SEGV", "ABRT", "BUS", "ILL", "FPE"])
def test_an_engine_that_dies_of_its_own_fault(number: str) -> None:
    assert caused_itself(128 + signal.Signals[f"SIG{number}"])


@pytest.mark.parametrize("status", [1, 7, 128])
def test_an_engine_that_gives_up(status: int) -> None:
    assert caused_itself(status)


@pytest.mark.parametrize("number", ["KILL", "TERM", "INT", "HUP", "QUIT"])
def test_a_kill_from_outside_says_nothing_of_requests(number: str) -> None:
    assert not caused_itself(128 + signal.Signals[f"SIG{number}"])
    assert not caused_itself(-signal.Signals[f"SIG{number}"]), "of its guard"
    assert not caused_itself(0)


def test_one_that_was_alone_is_refused_after_the_second_crash() -> None:
    them = Quarantine(60)
    crash(them, b"a")
    assert them.check(b"a", "e") and quarantined_ids(them) == []
    crash(them, b"a")
    with pytest.raises(RequestQuarantined) as caught:
        them.check(b"a", "e")
    error = caught.value
    assert (error.status, error.code, error.retry) == (400, "request_quarantined", False)
    assert quarantined_ids(them) == [b"a".hex()]
    assert not them.check(b"a", "another engine"), "which may not have the fault"


def test_a_request_that_only_was_beside_two_culprits_is_not_refused() -> None:
    them = Quarantine(60)
    crash(them, b"long", b"first")
    crash(them, b"long", b"second")
    assert quarantined_ids(them) == []
    crash(them, b"second")
    assert quarantined_ids(them) == [b"second".hex()]
    assert them.check(b"long", "e"), "a suspect still, which runs alone"


def test_the_one_that_crashes_alone_is_refused_and_nobody_else() -> None:
    them = Quarantine(60)
    crash(them, b"a", b"b", b"poison")
    crash(them, b"poison", b"c")
    crash(them, b"poison")
    assert quarantined_ids(them) == [b"poison".hex()]
    for innocent in (b"a", b"b", b"c"):
        assert them.check(innocent, "e"), "a suspect still"
        them.clear_suspect(innocent)
        assert not them.check(innocent, "e")


def test_two_that_were_there_both_times_are_not_told_apart() -> None:
    them = Quarantine(60)
    crash(them, b"a", b"b")
    crash(them, b"a", b"b")
    assert quarantined_ids(them) == []
    crash(them, b"b")
    assert quarantined_ids(them) == [b"b".hex()]


def test_a_suspect_runs_alone_for_longer_after_its_second_crash() -> None:
    them = Quarantine(60)
    crash(them, b"a", b"b", seconds=20)
    assert them.check(b"a", "e") == 5
    crash(them, b"a", b"c", seconds=10)
    assert them.check(b"a", "e") == 30, "half as long again as it ran at most"
    crash(them, b"a", b"d", seconds=1000)
    assert them.check(b"a", "e") == 60
    assert them.check(b"unknown", "e") == 0


def test_one_beside_somebody_unknown_is_not_blamed_at_once() -> None:
    them = Quarantine(60)
    crash(them, b"a", b"")
    crash(them, b"")
    assert quarantined_ids(them) == []


def test_it_passes_and_can_be_cleared() -> None:
    clock = Clock()
    them = Quarantine(60, clock)
    crash(them, b"a")
    crash(them, b"a")
    clock.now = 59
    assert quarantined_ids(them) and them.quarantined[0].seconds_left == 1
    clock.now = 60
    assert quarantined_ids(them) == [] and not them.check(b"a", "e")
    crash(them, b"a")
    crash(them, b"a")
    assert them.clear() == 1
    assert quarantined_ids(them) == [] and not them.check(b"a", "e")


def test_it_can_be_off() -> None:
    them = Quarantine(0)
    for _ in range(5):
        crash(them, b"a")
    assert quarantined_ids(them) == [] and not them.check(b"a", "e")


@in_loop
async def test_suspects_get_the_engine_to_themselves(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "PROBATION", 0.2)
    write_model(models, "m")

    def asked(it: Rig, what: bytes) -> asyncio.Task[Lease]:
        request = AcquireLease("m", 10, 10, 20, fingerprint=what)
        return asyncio.create_task(it.leases.acquire(request))

    async with rig(models, runtime) as it:
        innocent = await asked(it, b"innocent")
        crash(it.pool.quarantine, b"a", b"b", engine="fake")
        first, second, newcomer = asked(it, b"a"), asked(it, b"b"), asked(it, b"new")
        await turn()
        assert not first.done(), "somebody else is there"
        innocent.release(DONE)
        (await first).release(DONE)
        held = await second
        await turn()
        assert not newcomer.done(), "nobody is let in beside one"
        (await newcomer).release(DONE)  # when it has crashed nothing for a while
        held.release(DONE)
        assert not it.pool.quarantine.check(b"a", "fake"), "it came to a good end"
