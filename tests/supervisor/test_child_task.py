"""Tasks in child processes, with children that print what the test says."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.supervisor.helpers import in_loop, is_alive
from tests.waiting import wait_until
from vllm_obtain.errors import FetchFailed, ServiceError
from vllm_obtain.models.progress import Progress, line
from vllm_obtain.supervisor.child_task import run_child


def printing(*lines: str, then: str = "") -> list[str]:
    code = "".join(f"print({text!r}, flush=True)\n" for text in lines)
    return [sys.executable, "-I", "-S", "-c", code + then]


@in_loop
async def test_progress_is_reported_and_the_last_one_returned(runtime: Path) -> None:
    steps = [Progress("looking", "a"), Progress("done", "a", path="/m/a")]
    command = printing(line(steps[0]), "a warning of a library", line(steps[1]))
    reported: list[Progress] = []
    assert await run_child("a", runtime / "e1.pid", command, reported.append) == steps[1]
    assert reported == steps


@in_loop
async def test_a_report_on_many_models_arrives_complete(runtime: Path) -> None:
    last = Progress("done", report=[{"name": f"model-{n}"} for n in range(500)])
    command = printing(line(last))
    assert await run_child("look", runtime / "e1.pid", command, lambda _: None) == last


@in_loop
async def test_a_failed_task_raises_its_error(runtime: Path) -> None:
    failed = Progress.of(FetchFailed("No such repository.", status=404, code="not_there"))
    with pytest.raises(ServiceError, match="No such repository") as caught:
        command = printing(line(failed), then="import sys; sys.exit(1)")
        await run_child("a", runtime / "e1.pid", command, lambda _: None)
    assert (caught.value.status, caught.value.code) == (404, "not_there")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [(["MemoryError"], "stopped: MemoryError"), ([], "stopped: it exited with status 3")],
)
def test_a_process_that_stops_early_is_a_failure(
    lines: list[str], reason: str, runtime: Path
) -> None:
    @in_loop
    async def run() -> None:
        command = printing(*lines, then="import sys; sys.exit(3)")
        with pytest.raises(ServiceError, match=reason):
            await run_child("a", runtime / "e1.pid", command, lambda _: None)

    run()


@in_loop
async def test_a_cancellation_ends_the_child(runtime: Path) -> None:
    pidfile, reported = runtime / "e1.pid", list[Progress]()
    command = printing(line(Progress("looking")), then="import time; time.sleep(600)")
    task = asyncio.create_task(run_child("a", pidfile, command, reported.append))
    await wait_until(lambda: reported)
    pid = int(pidfile.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(pid)
