"""Who is suspected of a crash, and who is refused."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import DONE, Rig, in_loop, rig, turn
from vllm_obtain.errors import RequestQuarantined
from vllm_obtain.messages import Acquire
from vllm_obtain.supervisor import admission
from vllm_obtain.supervisor.lease import Lease
from vllm_obtain.supervisor.quarantine import Quarantine, caused_itself

SEGV = 128 + signal.SIGSEGV


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def crash(them: Quarantine, *there: bytes, engine: str = "e") -> None:
    them.crashed("m", engine, SEGV, there)


def refused(them: Quarantine) -> list[str]:
    return [each.id for each in them.refused]


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
    assert them.vet(b"a", "e") and refused(them) == []
    crash(them, b"a")
    with pytest.raises(RequestQuarantined) as caught:
        them.vet(b"a", "e")
    error = caught.value
    assert (error.status, error.code, error.retry) == (400, "request_quarantined", False)
    assert refused(them) == [b"a".hex()]
    assert not them.vet(b"a", "another engine"), "which may not have the fault"


def test_the_one_that_was_there_both_times_is_refused_and_nobody_else() -> None:
    them = Quarantine(60)
    crash(them, b"a", b"b", b"poison")
    crash(them, b"poison", b"c")
    assert refused(them) == [b"poison".hex()]
    for innocent in (b"a", b"b", b"c"):
        assert them.vet(innocent, "e"), "a suspect still"
        them.cleared(innocent)
        assert not them.vet(innocent, "e")


def test_two_that_were_there_both_times_are_not_told_apart() -> None:
    them = Quarantine(60)
    crash(them, b"a", b"b")
    crash(them, b"a", b"b")
    assert refused(them) == []
    crash(them, b"b")
    assert refused(them) == [b"b".hex()]


def test_one_beside_somebody_unknown_is_not_blamed_at_once() -> None:
    them = Quarantine(60)
    crash(them, b"a", b"")
    crash(them, b"")
    assert refused(them) == []


def test_it_passes_and_can_be_cleared() -> None:
    clock = Clock()
    them = Quarantine(60, clock)
    crash(them, b"a")
    crash(them, b"a")
    clock.now = 59
    assert refused(them) and them.refused[0].seconds_left == 1
    clock.now = 60
    assert refused(them) == [] and not them.vet(b"a", "e")
    crash(them, b"a")
    crash(them, b"a")
    assert them.clear() == 1
    assert refused(them) == [] and not them.vet(b"a", "e")


def test_it_can_be_off() -> None:
    them = Quarantine(0)
    for _ in range(5):
        crash(them, b"a")
    assert refused(them) == [] and not them.vet(b"a", "e")


@in_loop
async def test_suspects_get_the_engine_to_themselves(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "PROBATION", 0.2)
    write_model(models, "m")

    def asked(it: Rig, what: bytes) -> asyncio.Task[Lease]:
        request = Acquire("m", 10, 10, 20, fingerprint=what)
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
        assert not it.pool.quarantine.vet(b"a", "fake"), "it came to a good end"
