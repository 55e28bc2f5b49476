from __future__ import annotations

from pathlib import Path

import pytest

from tests.catalogue.gguf_files import write_gguf
from tests.catalogue.safetensors_files import write_folder
from tests.engines.machines import LLAMA_CPU, PLAIN, pretend
from tests.fake_engine import FakeAdapter
from vllm_obtain.catalogue import Catalogue, Model
from vllm_obtain.engines import choice, registry
from vllm_obtain.engines.base import Adapter
from vllm_obtain.engines.llama_cpp import LlamaCpp
from vllm_obtain.engines.mlx_engine import Mlx
from vllm_obtain.engines.vllm_engine import Vllm
from vllm_obtain.errors import EngineFailed, ModelNotFound, UnsupportedParameter
from vllm_obtain.protocol.parse import parse_chat
from vllm_obtain.protocol.task import Task
from vllm_obtain.settings import Settings


def settings(**env: str) -> Settings:
    return Settings.load({name.upper(): value for name, value in env.items()})


# Whether MLX is installed beside it must not matter.
LLAMA = settings(inference_engine="llama_cpp")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    write_gguf(tmp_path / "a.gguf")
    return Catalogue(tmp_path).find("a")


def test_the_built_in_engine() -> None:
    assert isinstance(registry.adapter("llama_cpp", settings()), LlamaCpp)


def test_an_engine_of_ones_own(model: Model) -> None:
    own = settings(
        inference_engine="fake", extra_engines="x=no:Thing, fake = tests.fake_engine:FakeAdapter"
    )
    assert isinstance(choice.ranked(model, own)[0].adapter, FakeAdapter)
    assert choice.why_not(model, own) is None


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("no.such.module:Thing", "No module named"),
        ("tests.fake_engine:Nothing", "no attribute 'Nothing'"),
        ("tests.fake_engine:Switches", "is no Adapter"),
        ("vllm_obtain.engines.base:Adapter", "abstract"),
        ("broken_plugin:Thing", "its own fault"),
    ],
)
def test_plugins_that_cannot_be_used(
    target: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('its own fault')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineFailed, match=why) as caught:
        registry.adapter("own", settings(inference_engine="own", extra_engines=f"own={target}"))
    assert (caught.value.code, caught.value.status) == ("engine_not_installed", 503)


@pytest.mark.parametrize("base", [LlamaCpp, Mlx, Vllm])
def test_an_engine_made_from_a_built_in_one(base: type[Adapter]) -> None:
    class Mine(base):  # type: ignore[misc, valid-type]  # the parameter
        name = "mine"

    assert Mine(settings()).missing() == base(settings()).missing()


def test_an_engine_of_a_later_version() -> None:
    with pytest.raises(EngineFailed, match="INFERENCE_ENGINE=auto, or one of: llama_cpp, mlx"):
        registry.adapter("another", settings())


def test_a_model_no_engine_can_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Model("safe", tmp_path, "safetensors", 1, "0", 0)
    with pytest.raises(EngineFailed, match=r"llama_cpp: .*safetensors folder") as caught:
        choice.ranked(folder, LLAMA)
    assert caught.value.code == "no_engine_for_model"
    assert "safetensors" in (choice.why_not(folder, LLAMA) or "")
    broken = Model("broken", tmp_path, "gguf", 1, "0", 0, problem="It is cut off.")
    assert choice.why_not(broken, settings()) == "It is cut off."
    pretend(monkeypatch, PLAIN)
    missing = choice.why_not(Model("a", tmp_path, "gguf", 1, "0", 0), LLAMA)
    assert "pip install 'xllamacpp>=2026.10'" in (missing or "")


def test_what_an_engine_cannot_honour_is_refused_by_name() -> None:
    body = b'{"messages": [{"role": "user", "content": "x"}], "min_tokens": 1, "logprobs": true}'
    with pytest.raises(UnsupportedParameter) as caught:
        LlamaCpp().check(Task(parse_chat(body), "x"))
    assert caught.value.param == "min_tokens"
    assert "llama_cpp" in caught.value.message


def test_the_default_is_the_first_model_that_can_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, PLAIN, llama_cpp=LLAMA_CPU)
    write_folder(tmp_path / "a-folder")
    catalogue = Catalogue(tmp_path)
    folder = choice.default_model(catalogue, settings())
    assert folder is not None and folder.name == "a-folder"
    (tmp_path / "more").mkdir()
    write_gguf(tmp_path / "more" / "b.gguf")
    catalogue = Catalogue(tmp_path)
    best = choice.default_model(catalogue, settings())
    assert best is not None and best.name == "more"


def test_a_named_default_must_exist(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    found = choice.default_model(Catalogue(tmp_path), settings(default_model="A"))
    assert found is not None and found.name == "a"
    with pytest.raises(ModelNotFound, match="Models here: a"):
        choice.default_model(Catalogue(tmp_path), settings(default_model="b"))
    assert choice.default_model(Catalogue(tmp_path / "none"), settings()) is None


def test_a_model_no_engine_loads_gets_each_engines_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, PLAIN, llama_cpp=LLAMA_CPU)
    write_folder(tmp_path / "folder")
    model = Catalogue(tmp_path).find("folder")
    with pytest.raises(EngineFailed, match="llama_cpp: llama\\.cpp loads GGUF files"):
        choice.ranked(model, settings())
