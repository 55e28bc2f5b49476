"""Preloading, pinning and unloading after a time, as the owner set it for single models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import DONE, in_loop, rig, turn
from tests.supervisor.instance import Instance
from tests.waiting import eventually, wait_until
from vllm_obtain.config.settings import FROZEN, Settings
from vllm_obtain.control.runtime_dir import version
from vllm_obtain.errors import EngineFailed
from vllm_obtain.supervisor.engine.states import EngineState


def tables(folder: Path, text: str) -> dict[str, str]:
    """Write the file; returns the setting that names it."""
    (folder / "models.toml").write_text(text)
    return {"model_settings": str(folder / "models.toml")}


@in_loop
async def test_a_pinned_model_makes_no_room(models: Path, runtime: Path) -> None:
    for name in "abc":
        write_model(models, name)
    env = tables(models, "[A]\npin = true")
    async with rig(models, runtime, max_concurrent_models=2, **env) as it:
        await it.pool.load("a")
        await it.pool.load("b")
        await it.pool.load("c")
        assert it.pool.state("b") is EngineState.STOPPED, "though a was used before it"
        assert it.pool.state("a") is it.pool.state("c") is EngineState.READY


@in_loop
async def test_when_all_places_are_pinned_nobody_waits_for_one(models: Path, runtime: Path) -> None:
    for name in "ab":
        write_model(models, name)
    async with rig(models, runtime, **tables(models, "[a]\npin = true")) as it:
        await it.pool.load("b")
        await it.pool.load("a")
        with pytest.raises(EngineFailed, match=r"pinned models \(a\) occupy all of") as caught:
            await it.lease("b")
        assert (caught.value.status, caught.value.code) == (503, "no_place_for_model")
        await it.pool.unload("a")
        (await it.lease("b")).release(DONE)


@in_loop
async def test_a_model_leaves_when_nobody_has_used_it_for_its_time(
    models: Path, runtime: Path
) -> None:
    for name in "ab":
        write_model(models, name)
    env = tables(models, "[a]\nttl = 0.2")
    async with rig(models, runtime, max_concurrent_models=2, **env) as it:
        it.pool.watch()
        await it.pool.load("b")
        lease = await it.lease("a")
        await asyncio.sleep(0.3)
        assert it.pool.state("a") is EngineState.READY, "it is in use"
        lease.release(DONE)
        await turn()
        assert it.pool.state("a") is EngineState.READY, "its time begins with the last use"
        await wait_until(lambda: it.pool.state("a") is EngineState.STOPPED)
        assert it.pool.state("b") is EngineState.READY
        (await it.lease("a")).release(DONE)
        assert it.pool.state("a") is EngineState.READY, "a request loads it again"


def test_several_models_are_loaded_at_the_start(
    models: Path, tmp_path: Path, instances: Callable[..., Instance]
) -> None:
    for name in "abcd":
        write_model(models, name)
    env = tables(tmp_path, "[b]\npreload = true\n[d]\npreload = true\n[none]\npreload = true")
    instance = instances(max_concurrent_models=3, **env)
    instance.start()

    def ready() -> set[str]:
        return {each.model for each in instance.status().engines if each.state == "ready"}

    eventually(lambda: len(ready()) == 2)
    assert ready() == {"b", "d"}, "the first model on disk is loaded only when nobody names one"


def test_settings_of_a_model_that_changed_make_another_supervisor(
    models: Path, tmp_path: Path, instances: Callable[..., Instance]
) -> None:
    write_model(models, "a")
    env = tables(tmp_path, "[a]\nttl = 5")
    settings = instances(**env).settings
    assert version(Settings.load(settings.environ())) == version(settings)
    tables(tmp_path, "[a]\nttl = 6")
    changed = Settings.load({"MODEL_SETTINGS": str(tmp_path / "models.toml")}).models.text
    environ = settings.environ() | {FROZEN: changed}
    assert version(Settings.load(environ)) != version(settings)
