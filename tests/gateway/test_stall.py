"""An engine that stalls under a request, through a whole service."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.gateway.test_status import total
from tests.service import Service
from tests.waiting import eventually


@pytest.mark.serial
def test_it_is_told_then_ended_and_the_request_is_asked_again(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    go = tmp_path / "go"
    write_model(models, "a", hang_before_first_byte=str(go))
    env = {**ENVIRONMENT, "MODELS_DIR": str(models), "STALL_SECONDS": "2"}
    with Service(["run.py", "--no-fetch"], tmp_path, env) as service:
        before = service.engine()["pid"]
        told: list[Any] = []
        body = {"prompt": "one two", "temperature": 1}
        asking = threading.Thread(
            target=lambda: told.append(service.request("/v1/completions", body))
        )
        asking.start()
        eventually(lambda: service.request("/ready")[0] == 503)
        _, _, answer = service.request("/ready")
        engine = service.engine()
        assert "has made no progress" in json.loads(answer)["reason"] and not engine["healthy"]
        assert engine["quiet_seconds"] >= 1 and engine["pid"] == before
        assert total(service, "engine_healthy", model="a") == 0
        assert service.request("/health")[0] == 200
        eventually(lambda: [e for e in service.status()["engines"] if e["stalls"] == 1])
        go.touch()
        eventually(lambda: service.request("/ready")[0] == 200)
        asking.join(20)
        status, _, answer = told[0]
        assert status == 200 and json.loads(answer)["choices"][0]["text"].split() == ["one", "two"]
