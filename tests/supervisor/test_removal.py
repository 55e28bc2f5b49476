"""Models that a service has loaded are not removed by another service or by a command."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import in_loop, rig
from tests.waiting import wait_until
from vllm_obtain.download.remove import move_to_trash
from vllm_obtain.errors import ModelInUse
from vllm_obtain.models import ModelCatalog
from vllm_obtain.supervisor.engine.states import EngineState


@in_loop
async def test_a_model_that_another_service_has_loaded_stays(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    model = ModelCatalog(models).find("a")
    async with rig(models, runtime) as it:
        engine = await it.pool.load("a")
        with pytest.raises(ModelInUse, match="a service on this machine"):
            move_to_trash(model, models, [])
        pid = engine.pid
        os.kill(pid or 0, signal.SIGKILL)
        await wait_until(lambda: engine.pid != pid and engine.state is EngineState.READY)
        with pytest.raises(ModelInUse):
            move_to_trash(model, models, [])
        assert model.path.exists()
        await it.pool.unload("a")
        assert move_to_trash(model, models, []).paths == ["a.gguf"]
        assert not model.path.exists()
