"""What bounds the MLX server's memory: refusals, and the wired limit that nobody touches."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.engines.mlx.client import GREEDY, Server, run_server
from tests.engines.mlx.model import HEADS, HIDDEN, KV_HEADS, LAYERS, write_model
from vllm_obtain.engines.mlx import server_main

PER_TOKEN = LAYERS * 2 * KV_HEADS * HIDDEN // HEADS * 4
WEIGHTS = 4 * (260 * HIDDEN * 2 + HIDDEN + LAYERS * (2 * HIDDEN + 3 * HIDDEN**2 + 3 * 128 * HIDDEN))


def memory_for(tokens: int) -> int:
    return WEIGHTS + int(tokens * PER_TOKEN / 0.8) + 64


def test_a_request_that_exceeds_the_memory_is_rejected_before_it_starts(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as runtime,
        run_server(folder, Path(runtime), context=8192, memory_bytes=memory_for(1024)) as server,
    ):
        refused = server.complete("x" * 1000, max_tokens=100)
        assert refused.status == 400 and refused.error is not None
        assert refused.error["code"] == "prefill_memory_exceeded"
        assert refused.error["needed_bytes"] == 1280 * PER_TOKEN
        assert refused.error["needed_bytes"] > refused.error["available_bytes"]
        assert "enough for 1024 tokens" in refused.error["message"]
        assert "MLX_MEMORY_FRACTION" in refused.error["message"]
        # Without a limit there must be room for the prompt and a step more.
        assert server.complete("x" * 768, max_tokens=-1).status == 400
        assert server.complete("x" * 767, max_tokens=-1, **GREEDY).done
        assert server.complete("x" * 900, max_tokens=100, **GREEDY).done
        _several_share_what_there_is(server)


def _several_share_what_there_is(server: Server) -> None:
    """Four times 512 tokens do not fit in 1,024: some wait, all are answered."""
    requests = [{"prompt": f"{n}" * 400, "max_tokens": 100, **GREEDY} for n in range(4)]
    answers = server.together(requests)
    assert all(answer.usage["completion_tokens"] == 100 for answer in answers)
    # Two without a limit fill it: one of them ends early, with an honest reason.
    open_ended = {"max_tokens": -1, "logit_bias": {"257": -100}, **GREEDY}
    answers = server.together([{"prompt": f"{n}" * 100, **open_ended} for n in range(2)])
    assert {answer.finish for answer in answers} == {"length"}
    assert max(answer.usage["total_tokens"] for answer in answers) >= 700
    assert server.metrics["prefix_bytes"] <= 1024 * PER_TOKEN


def test_weights_that_leave_no_memory_are_an_error(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as runtime,
        pytest.raises(AssertionError, match="Raise MLX_MEMORY_FRACTION"),
        run_server(folder, Path(runtime), memory_bytes=WEIGHTS),
    ):
        pass


WIRED = """
import importlib, importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location(
    "obtain", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["obtain"] = importlib.util.module_from_spec(spec)
import mlx.core as mx
calls = []
mx.set_wired_limit = lambda *given: calls.append(given) or 0
mx.metal.is_available = lambda: True
from obtain.config import Config
from obtain.model_loader import load
loaded = load(Config(model=sys.argv[2], socket=""))
from mlx_lm.generate import BatchGenerator, wired_limit
generator = BatchGenerator(loaded.model)
generator.insert([[1, 2, 3]], [2])
while generator.next_generated():
    pass
generator.close()
with wired_limit(loaded.model):
    pass
try:
    mx.set_wired_limit(1)
except RuntimeError as error:
    print(calls, type(error).__name__)
"""


def test_the_wired_limit_is_never_changed(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    ours = Path(server_main.__file__).with_name("server")
    result = subprocess.run(
        [sys.executable, "-P", "-c", WIRED, str(ours), str(folder)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.stdout == "[] WiredLimitForbidden\n", result.stderr


def test_the_server_responds_while_loading_and_exits_when_loading_fails(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = {"model": str(tmp_path / "empty"), "socket": str(tmp_path / "s")}
    result = subprocess.run(
        [sys.executable, "-P", server_main.__file__, json.dumps(config)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 1 and "config.json" in result.stderr
