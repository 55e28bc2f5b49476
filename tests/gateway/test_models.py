"""Models over HTTP: the list, loading, unloading, loading on demand, making room."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models.gguf_files import write_gguf
from tests.service import Service
from tests.waiting import eventually


@pytest.fixture(scope="module")
def service_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Three models on a fake engine, one place for them, and a folder no engine can load."""
    folder = tmp_path_factory.mktemp("several")
    models = folder / "models"
    deep = models / "qwen-0.5b" / "qwen" / "Qwen2___5-0___5B-Instruct"
    deep.mkdir(parents=True)
    write_gguf(deep / "qwen2.5-0.5b-instruct-q4_k_m.gguf")
    write_gguf(models / "alpha.gguf")
    write_gguf(models / "beta.gguf")
    (models / "broken.gguf").write_bytes(b"GGUF")
    slow = {"slow_start": str(folder / "go")}
    (models / "beta.gguf.json").write_text(json.dumps(slow))
    env = {
        "MODELS_DIR": str(models),
        "DEFAULT_MODEL": "alpha",
        "INFERENCE_ENGINE": "fake",
        "EXTRA_ENGINES": "fake=tests.fake_engine:FakeAdapter",
    }
    with Service(["run.py", "--no-fetch"], folder, env) as service:
        yield service


def loaded_models(service: Service) -> list[tuple[str, str]]:
    return [
        (e["model"], e["state"]) for e in service.status()["engines"] if e["state"] != "stopped"
    ]


def test_models_are_listed_with_what_is_known_of_them(service_of_three: Service) -> None:
    models = {model["id"]: model for model in service_of_three.json("/v1/models")["data"]}
    assert set(models) == {"alpha", "beta", "broken", "qwen-0.5b"}
    assert all(model["object"] == "model" for model in models.values())
    assert models["alpha"]["loadable"] and models["alpha"]["format"] == "gguf"
    assert not models["broken"]["loadable"] and models["broken"]["reason"]
    assert service_of_three.json("/v1/models/qwen-0.5b")["id"] == "qwen-0.5b"


def test_a_folder_no_engine_can_load_is_listed_with_the_reason(
    service: Service, tmp_path: Path
) -> None:
    from tests.models.safetensors_files import write_folder

    write_folder(tmp_path / "models" / "hf-model")
    env = {"MODELS_DIR": str(tmp_path / "models"), "INFERENCE_ENGINE": "llama_cpp"}
    other = Service(["run.py", "--no-fetch"], tmp_path, env)
    try:
        other.start(until="vllm-obtain is running at")
        (model,) = other.json("/v1/models")["data"]
        assert model["id"] == "hf-model" and model["format"] == "safetensors"
        assert not model["loadable"] and "GGUF" in model["reason"]
        status, _, answer = other.request("/v1/models/load", {"model_name": "hf-model"})
        assert status == 503 and json.loads(answer)["error"]["code"] == "no_engine_for_model"
        status, _, answer = other.request("/ready")
        assert status == 503 and "GGUF" in json.loads(answer)["reason"]
        write_gguf(tmp_path / "models" / "zebra.gguf")
        eventually(lambda: len(other.json("/v1/models")["data"]) == 2)
        # The first one that can be served is the default, not the first of the list.
        assert other.request("/ready")[0] == 200
    finally:
        other.kill_everything()


def test_a_chat_loads_its_model_and_evicts_the_idle_one(service_of_three: Service) -> None:
    service_of_three.json("/v1/models/load", {"model_name": "alpha"})
    assert loaded_models(service_of_three) == [("alpha", "ready")]
    service_of_three.chat(model="qwen-0.5b")
    assert loaded_models(service_of_three) == [("qwen-0.5b", "ready")]
    service_of_three.chat(model="ALPHA")
    assert loaded_models(service_of_three) == [("alpha", "ready")]


def test_load_waits_or_answers_202(service_of_three: Service) -> None:
    service_of_three.json("/v1/models/load", {"model_name": "alpha"})
    status, _, answer = service_of_three.request(
        "/v1/models/load", {"model_name": "beta", "wait": False}
    )
    assert (status, json.loads(answer)["state"]) == (202, "starting")
    eventually(lambda: ("beta", "starting") in loaded_models(service_of_three))
    assert service_of_three.request("/ready")[0] == 503
    (service_of_three.folder / "go").touch()
    assert service_of_three.json("/v1/models/load", {"model_name": "beta"})["state"] == "ready"
    assert service_of_three.request("/ready")[0] == 200


def test_unload_ends_the_process_and_can_be_repeated(service_of_three: Service) -> None:
    service_of_three.json("/v1/models/load", {"model_name": "alpha"})
    for _ in range(2):
        answer = service_of_three.json("/v1/models/unload", {"model_name": "alpha"})
        assert (answer["model"], answer["state"]) == ("alpha", "stopped")
    assert loaded_models(service_of_three) == []
    assert service_of_three.chat(model="alpha")["model"] == "alpha"


def test_a_broken_file_is_refused_with_its_reason(service_of_three: Service) -> None:
    status, _, answer = service_of_three.request("/v1/models/load", {"model_name": "broken"})
    error = json.loads(answer)["error"]
    assert (status, error["code"]) == (503, "model_broken")
    assert "broken" in error["message"]


def test_a_model_that_arrives_while_the_service_runs_is_found(service_of_three: Service) -> None:
    write_gguf(service_of_three.folder / "models" / "late.gguf")

    def listed() -> Any:
        return "late" in {model["id"] for model in service_of_three.json("/v1/models")["data"]}

    eventually(listed)
    assert service_of_three.chat(model="late")["model"] == "late"
