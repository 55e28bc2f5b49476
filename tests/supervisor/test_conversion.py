"""Models that are converted for their engine before they are loaded, by real children."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.models.convert.models import Small
from tests.supervisor.helpers import DONE, in_loop, is_alive, rig, turn
from tests.waiting import wait_until
from vllm_obtain.errors import EngineFailed
from vllm_obtain.models.convert import ConversionPlan
from vllm_obtain.supervisor.engine.states import EngineState

PLUGINS = (
    "fake=tests.fake_engine:FakeAdapter, other=tests.fake_engine:OtherAdapter,"
    "converting=tests.fake_engine:ConvertingAdapter"
)
SETTINGS = {"extra_engines": PLUGINS, "inference_engine": "converting"}
HALF = json.dumps({"done": 43, "total": 100, "stage": "weights"})
# Notes its pid, says how far it is, waits for a file, then does what it was told to.
SLOW = (
    "import os, pathlib, sys, time\n"
    "pid, go, *command = sys.argv[1:]\n"
    "pathlib.Path(pid).write_text(str(os.getpid()))\n"
    f"print({HALF!r}, flush=True)\n"
    "while not pathlib.Path(go).exists(): time.sleep(0.01)\n"
    "os.execv(command[0], command)\n"
)


@pytest.fixture
def model(models: Path) -> Path:
    """A GGUF model that can be converted."""
    return Small().write(models / "a.gguf")


@pytest.fixture
def slow_conversion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, Path]:
    """Files: where the child notes its pid, and what it waits for."""
    pid, go = tmp_path / "pid", tmp_path / "go"
    real = ConversionPlan.command.fget
    assert real is not None
    before = [sys.executable, "-c", SLOW, str(pid), str(go)]
    monkeypatch.setattr(ConversionPlan, "command", property(lambda plan: [*before, *real(plan)]))
    return pid, go


def converted_files(models: Path) -> list[Path]:
    return [each for each in (models / ".converted").glob("*") if each.is_dir()]


@in_loop
async def test_what_an_engine_cannot_read_is_converted_once(
    models: Path, model: Path, runtime: Path
) -> None:
    async with rig(models, runtime, **SETTINGS) as it:
        lease = await it.lease("a")
        engine = it.engine("a")
        assert engine.files.format == "safetensors" and engine.files.path.is_dir()
        assert (engine.files.name, engine.files.revision) == ("a", engine.model.revision)
        assert engine.model.path == model
        lease.release(DONE)
        before = engine.files.path.stat()
        await it.pool.unload("a")
        await it.pool.load("a")
        assert engine.files.path.stat() == before
        assert [each.name for each in it.catalogue.models()] == ["a"], "it is no model of its own"


@in_loop
async def test_how_far_it_is(
    models: Path, model: Path, runtime: Path, slow_conversion: tuple[Path, Path]
) -> None:
    async with rig(models, runtime, **SETTINGS) as it:
        waiting = it.acquire_in_background("a")
        await wait_until(lambda: it.pool.engines and it.engine("a").stage == "converting 43 %")
        assert it.pool.state("a") is EngineState.CONVERTING
        done = it.pool.load_status("a")
        assert (done.state, done.stage) == ("converting", "converting 43 %")
        slow_conversion[1].touch()
        lease = await waiting
        assert it.engine("a").stage is None
        lease.release(DONE)


@in_loop
async def test_a_conversion_takes_no_place(
    models: Path, model: Path, runtime: Path, slow_conversion: tuple[Path, Path]
) -> None:
    write_model(models, "b")
    async with rig(models, runtime, **SETTINGS) as it:
        held = await it.pool.load("b", "fake")
        waiting = it.acquire_in_background("a")
        await wait_until(lambda: it.pool.state("a") is EngineState.CONVERTING)
        assert it.pool.ready_engine("b") is held
        slow_conversion[1].touch()
        (await waiting).release(DONE)
        assert it.pool.state("b") is EngineState.STOPPED


@in_loop
async def test_a_load_called_off_ends_the_conversion(
    models: Path, model: Path, runtime: Path, slow_conversion: tuple[Path, Path]
) -> None:
    async with rig(models, runtime, **SETTINGS) as it:
        loading = asyncio.create_task(it.pool.load("a"))
        await wait_until(lambda: it.pool.engines and it.engine("a").stage == "converting 43 %")
        pid = int(slow_conversion[0].read_text())
        assert await it.pool.unload("a") is EngineState.STOPPED
        with pytest.raises(EngineFailed, match="unloaded before it was ready"):
            await loading
        assert not is_alive(pid)


@in_loop
async def test_the_end_of_the_service_ends_the_conversion(
    models: Path, model: Path, runtime: Path, slow_conversion: tuple[Path, Path]
) -> None:
    async with rig(models, runtime, **SETTINGS) as it:
        waiting = it.acquire_in_background("a")
        await wait_until(lambda: it.pool.engines and it.engine("a").stage == "converting 43 %")
        pid = int(slow_conversion[0].read_text())
        await it.pool.close()
        assert not is_alive(pid)
        with pytest.raises(EngineFailed):
            await waiting


@in_loop
async def test_no_room_on_the_disk(
    models: Path, model: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = (
        "import collections, shutil, sys; from vllm_obtain.models.convert import __main__ as m;"
        "Usage = collections.namedtuple('Usage', 'total used free');"
        "shutil.disk_usage = lambda _: Usage(1, 1, 0); sys.exit(m.main(sys.argv[4:]))"
    )
    real = ConversionPlan.command.fget
    assert real is not None
    command = property(lambda plan: [sys.executable, "-c", code, *real(plan)])
    monkeypatch.setattr(ConversionPlan, "command", command)
    async with rig(models, runtime, **SETTINGS) as it:
        with pytest.raises(EngineFailed, match="but only 0 MB are free") as caught:
            await it.lease("a")
        assert (caught.value.code, caught.value.status) == ("conversion_failed", 503)
        assert "The conversion of 'a' for converting failed" in caught.value.message
        assert it.engine("a").last_error == caught.value.message
        assert converted_files(models) == []
        await it.pool.load("a", "fake")
        with pytest.raises(EngineFailed, match=r"Free disk space\. fake still serves the model"):
            await it.pool.load("a", "converting")
        assert it.pool.state("a") is EngineState.READY


@in_loop
async def test_a_converted_folder_that_is_broken(models: Path, model: Path, runtime: Path) -> None:
    async with rig(models, runtime, **SETTINGS) as it:
        await it.pool.load("a")
        await it.pool.unload("a")
        (folder,) = converted_files(models)
        (folder / "config.json").write_text("{")
        with pytest.raises(EngineFailed, match="Delete that folder") as caught:
            await it.pool.load("a")
        assert caught.value.code == "conversion_failed"
        shutil.rmtree(folder)
        await it.pool.load("a")


@in_loop
async def test_requests_run_while_a_switch_converts(
    models: Path, model: Path, runtime: Path, slow_conversion: tuple[Path, Path]
) -> None:
    async with rig(models, runtime, **{**SETTINGS, "inference_engine": "fake"}) as it:
        await it.pool.load("a")
        moving = asyncio.create_task(it.pool.load("a", "converting"))
        await wait_until(lambda: it.pool.load_status("a", "converting").stage == "converting 43 %")
        (await it.lease("a")).release(DONE)
        await turn()
        assert it.pool.state("a") is EngineState.READY
        slow_conversion[1].touch()
        assert (await moving).adapter.name == "converting"
