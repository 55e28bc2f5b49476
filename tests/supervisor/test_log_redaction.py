"""Lines of engines that answer requests: what of them is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import in_loop, rig
from tests.waiting import wait_until
from vllm_obtain.supervisor.engine.log_redaction import redact


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        '  File "/opt/vllm/v1/engine/core.py", line 99, in run_busy_loop',
        "/build/ggml/src/ggml.c:1234: GGML_ASSERT(a->ne[0] == b->ne[0]) failed",
        "terminate called after throwing an instance of 'std::runtime_error'",
        "(EngineCore pid=7) ERROR 11-23 05:00:00 [core.py:12] Traceback (most recent call last):",
    ],
)
def test_what_says_where_is_kept(line: str) -> None:
    assert redact(line) == line


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("the marker", ""),
        ("ValueError: cannot read 'marker'", "ValueError"),
        ("pydantic_core.ValidationError: marker", "pydantic_core.ValidationError"),
        ("    raise ValueError(marker)", ""),
        ("what():  marker", ""),
        ('  File "marker", line 3, in f, and marker', ""),
        ("ERROR 11-23 05:00:00 [a.py:1] prompt: marker", "ERROR 11-23 05:00:00 [a.py:1]"),
        ("(APIServer pid=7) INFO 11-23 05:00:00 marker", "(APIServer pid=7) INFO 11-23 05:00:00"),
        ("srv  update: marker Error: marker", ""),
    ],
)
def test_what_may_be_a_prompt_is_not(line: str, kept: str) -> None:
    assert redact(line) == kept


@in_loop
@pytest.mark.parametrize("told", [False, True])
async def test_an_engine_that_prints_what_it_is_asked(
    models: Path, runtime: Path, caplog: pytest.LogCaptureFixture, told: bool
) -> None:
    caplog.set_level("DEBUG")
    write_model(models, "a", print_at_start=["hello"], print_prompts=True)
    async with rig(models, runtime, log_prompts=told) as it:
        lease = await it.lease("a")
        reader, writer = await asyncio.open_unix_connection(lease.granted.socket)
        body = b'{"prompt": "the marker", "max_tokens": 3}'
        head = b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        await reader.read()
        writer.close()
        engine = it.engine("a")
        before = engine.pid
        assert engine._run is not None
        await engine._run.stop()
        await wait_until(lambda: engine.pid != before)
    output = [r.context["line"] for r in caplog.records if r.getMessage() == "engine output"]
    assert "hello" in output
    assert any("marker" in line for line in output) is told
