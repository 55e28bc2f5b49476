"""The short form of `make chaos`, and what its judgement is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos import client, verdict
from tests.chaos.asks import CHAT, Ask
from tests.chaos.client import ANSWERED, CUT, LOST, SILENT, WRONG, Seen
from tests.chaos.run import run

# The same faults each time; what the machine makes of them differs.
SEED, SECONDS = 1, 40.0


@pytest.mark.timeout(180)
def test_nothing_is_lost_mixed_up_or_left(model_here: None, tmp_path: Path) -> None:
    seen = run(SEED, SECONDS, tmp_path)
    # How fast it recovers is for a machine that does nothing else; `make chaos` judges it.
    broken = [check for check in verdict.checks(seen) if check.target == "0" and not check.ok]
    assert not broken, json.dumps(verdict.figures(seen), indent=1)
    assert len(seen.faults) >= 8, seen.faults
    assert sum(result.fate == ANSWERED for result in seen.results) >= 100


@pytest.mark.parametrize(
    ("seen", "fate"),
    [
        (Seen(status=200, first_token=1, said="7", done=True, reason="stop"), ANSWERED),
        (Seen(status=200, first_token=1, said="8", done=True, reason="stop"), WRONG),
        (Seen(status=200, first_token=1, said="7", done=True), SILENT),
        (Seen(status=200, first_token=1, said="7", reason="stop"), SILENT),
        (Seen(status=200, first_token=1, said="7", error="It ended."), CUT),
        (Seen(status=200, first_byte=1, first_token=1, said="7", broke="reset"), CUT),
        (Seen(status=200, first_byte=1, error="It ended."), LOST),
        (Seen(broke="reset"), LOST),
        (Seen(status=502, first_byte=1), LOST),
        (Seen(status=429, first_byte=1), LOST),
    ],
)
def test_each_request_is_judged_by_what_its_client_saw(seen: Seen, fate: str) -> None:
    asked = Ask("choice", CHAT, {"stream": True}, "7".__eq__)
    assert client.judge(asked, seen)[0] == fate
