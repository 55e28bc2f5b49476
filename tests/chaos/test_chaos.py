"""The short form of `make chaos`, and what its judgement is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos import client, verdict
from tests.chaos.client import ANSWERED, CUT, LOST, SILENT, WRONG, Attempt
from tests.chaos.requests import CHAT, CheckedRequest
from tests.chaos.run import run

# The same faults each time, which begin with seven kinds; what the machine makes of them differs.
SEED, SECONDS = 293, 10.0


@pytest.mark.timeout(180)
@pytest.mark.serial
def test_nothing_is_lost_mixed_up_or_left(model_here: None, tmp_path: Path) -> None:
    output = run(SEED, SECONDS, tmp_path, warm=1.0, pause=(0.1, 0.5))
    # How fast it recovers is for a machine that does nothing else; `make chaos` judges it.
    broken = [check for check in verdict.checks(output) if check.target == "0" and not check.ok]
    assert not broken, json.dumps(verdict.figures(output), indent=1)
    assert len({fault.kind for fault in output.faults}) >= 5, output.faults
    assert sum(result.fate == ANSWERED for result in output.results) >= 100


@pytest.mark.parametrize(
    ("seen", "fate"),
    [
        (Attempt(status=200, first_token=1, said="7", done=True, reason="stop"), ANSWERED),
        (Attempt(status=200, first_token=1, said="8", done=True, reason="stop"), WRONG),
        (Attempt(status=200, first_token=1, said="7", done=True), SILENT),
        (Attempt(status=200, first_token=1, said="7", reason="stop"), SILENT),
        (Attempt(status=200, first_token=1, said="7", error="It ended."), CUT),
        (Attempt(status=200, first_byte=1, first_token=1, said="7", broke="reset"), CUT),
        (Attempt(status=200, first_byte=1, error="It ended."), LOST),
        (Attempt(broke="reset"), LOST),
        (Attempt(status=502, first_byte=1), LOST),
        (Attempt(status=429, first_byte=1), LOST),
    ],
)
def test_each_request_is_judged_by_what_its_client_saw(seen: Attempt, fate: str) -> None:
    request = CheckedRequest("choice", CHAT, {"stream": True}, "7".__eq__)
    assert client.judge(request, seen)[0] == fate
