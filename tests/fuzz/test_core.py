"""The short form of `make fuzz-core`, and that it would find something."""

from __future__ import annotations

import os
import time
from random import Random

import pytest

from tests.fuzz.core import loop
from tests.fuzz.core.__main__ import TARGETS
from tests.fuzz.core.loop import Case, fuzz

EXECUTIONS = 6000


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_the_documented_errors(name: str) -> None:
    seed = int(os.environ.get("FUZZ_SEED", time.time_ns() % 2**32))
    print(f"FUZZ_SEED={seed}")
    found = fuzz(TARGETS[name](), EXECUTIONS, seed)
    assert found.case is None, f"seed {seed}: {found.case!r}\n{found.error}"
    assert found.executions == EXECUTIONS and found.growth < loop.GROWTH


class _Broken:
    """Does what its bytes say."""

    name = "broken"

    def make(self, chance: Random) -> Case:
        return [chance.randbytes(3), b"abcdefX" if chance.random() < 0.01 else b"abc", b"tail"]

    def run(self, case: Case) -> None:
        if b"X" in b"".join(case[1:]):
            self.fail()

    def fail(self) -> None:
        raise KeyError


class _Slow(_Broken):
    def fail(self) -> None:
        while True:
            pass


class _Greedy(_Broken):
    def fail(self) -> None:
        bytearray(2**40)


@pytest.mark.parametrize(
    ("target", "said"), [(_Broken, "KeyError"), (_Slow, "TooLong"), (_Greedy, "MemoryError")]
)
def test_what_fails_hangs_or_grows_is_found_and_made_small(
    target: type[_Broken], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SECONDS", 0.01)
    found = fuzz(target(), 5000, 1)
    assert found.failed and found.case is not None
    assert b"".join(found.case).endswith(b"X") and len(b"".join(found.case[1:])) == 1
    assert said in found.error
