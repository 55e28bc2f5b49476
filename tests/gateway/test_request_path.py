"""The code that one streamed chat passes through stays short: `python -m bench.request_path`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.ports import free_port
from tests.service import ROOT

# Files, moves between files, and generators per token. Lower these numbers when the path becomes
# shorter; a feature that raises them needs a reason.
GATEWAY = {"files": 46, "moves": 140, "frames": 5}
# Each further read of the engine's output adds MOVES_PER_READ.
READS, MOVES_PER_READ = 5, 5
# Its background tasks add to the counts of the request.
SUPERVISOR = {"files": 30, "moves": 150}


@pytest.mark.serial
def test_the_path_of_a_streamed_chat_stays_short(model_here: None) -> None:
    command = [sys.executable, "-m", "bench.request_path", "--json", "--port", str(free_port())]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    path = json.loads(result.stdout.splitlines()[-1])
    path["gateway"]["moves"] -= MOVES_PER_READ * (path["gateway"]["reads"] - READS)
    for process, limits in (("gateway", GATEWAY), ("supervisor", SUPERVISOR)):
        for name, limit in limits.items():
            assert 0 < path[process][name] <= limit, (process, name, path)
