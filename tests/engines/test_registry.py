from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine_requests import engine_request
from tests.engines.machines import LLAMA_CPU, PLAIN, pretend
from tests.fake_engine import FakeAdapter
from tests.models.gguf_files import write_gguf
from tests.models.safetensors_files import write_folder
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines import registry, selection
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.engines.llama_cpp.adapter import LlamaCpp
from vllm_obtain.engines.mlx.adapter import Mlx
from vllm_obtain.engines.vllm.adapter import Vllm
from vllm_obtain.errors import EngineFailed, ModelNotFound, UnsupportedParameter
from vllm_obtain.models import Model, ModelCatalog
from vllm_obtain.protocol.parsing import parse_chat


def settings(**env: str) -> Settings:
    return Settings.load({name.upper(): value for name, value in env.items()})


# Whether MLX is installed beside it must not matter.
LLAMA = settings(inference_engine="llama_cpp")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    write_gguf(tmp_path / "a.gguf")
    return ModelCatalog(tmp_path).find("a")


def test_the_built_in_engine() -> None:
    assert isinstance(registry.adapter("llama_cpp", settings()), LlamaCpp)


def test_an_engine_of_ones_own(model: Model) -> None:
    own = settings(
        inference_engine="fake", extra_engines="x=no:Thing, fake = tests.fake_engine:FakeAdapter"
    )
    assert isinstance(selection.rank_engines(model, own)[0].adapter, FakeAdapter)
    assert selection.why_not_servable(model, own) is None


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("no.such.module:Thing", "No module named"),
        ("tests.fake_engine:Nothing", "no attribute 'Nothing'"),
        ("tests.fake_engine:Switches", "is not a subclass of Adapter"),
        ("vllm_obtain.engines.adapter:Adapter", "abstract"),
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


def test_a_plugin_for_version_0_1_is_refused_with_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old_plugin.py").write_text(
        "from vllm_obtain.engines.adapter import Adapter\n"
        "class Old(Adapter):\n"
        "    keeps_stops = False\n"
        "    def missing(self): return None\n"
        "    def refuses(self, model): return None\n"
        "    def launch(self, model, settings, machine, socket): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = settings(inference_engine="own", extra_engines="own=old_plugin:Old")
    with pytest.raises(EngineFailed) as caught:
        registry.adapter("own", own)
    assert (caught.value.code, caught.value.status) == ("engine_not_installed", 503)
    assert caught.value.message.endswith(
        "Change it: missing is now why_unavailable, refuses is now why_not_loadable, "
        "keeps_stops is now exact_stop_sequences, launch now takes (model, sizing, socket), "
        "with the sizing that plan(model, settings, machine) returns."
    )


@pytest.mark.parametrize("base", [LlamaCpp, Mlx, Vllm])
def test_an_engine_made_from_a_built_in_one(base: type[Adapter]) -> None:
    class Mine(base):  # type: ignore[misc, valid-type]  # the parameter
        name = "mine"

    assert Mine(settings()).why_unavailable() == base(settings()).why_unavailable()


def test_an_engine_of_a_later_version() -> None:
    with pytest.raises(EngineFailed, match="INFERENCE_ENGINE=auto, or one of: llama_cpp, mlx"):
        registry.adapter("another", settings())


def test_a_model_no_engine_can_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Model("safe", tmp_path, "safetensors", 1, "0", 0)
    with pytest.raises(EngineFailed, match=r"llama_cpp: .*safetensors folder") as caught:
        selection.rank_engines(folder, LLAMA)
    assert caught.value.code == "no_engine_for_model"
    assert "safetensors" in (selection.why_not_servable(folder, LLAMA) or "")
    broken = Model("broken", tmp_path, "gguf", 1, "0", 0, problem="It is cut off.")
    assert selection.why_not_servable(broken, settings()) == "It is cut off."
    pretend(monkeypatch, PLAIN)
    missing = selection.why_not_servable(Model("a", tmp_path, "gguf", 1, "0", 0), LLAMA)
    assert "pip install 'xllamacpp>=2026.10'" in (missing or "")


def test_what_an_engine_cannot_honour_is_refused_by_name() -> None:
    body = b'{"messages": [{"role": "user", "content": "x"}], "min_tokens": 1, "logprobs": true}'
    with pytest.raises(UnsupportedParameter) as caught:
        LlamaCpp().check(engine_request(parse_chat(body), "x"))
    assert caught.value.param == "min_tokens"
    assert "llama_cpp" in caught.value.message


def test_the_default_is_the_first_model_that_can_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, PLAIN, llama_cpp=LLAMA_CPU)
    write_folder(tmp_path / "a-folder")
    catalogue = ModelCatalog(tmp_path)
    folder = selection.default_model(catalogue, settings())
    assert folder is not None and folder.name == "a-folder"
    (tmp_path / "more").mkdir()
    write_gguf(tmp_path / "more" / "b.gguf")
    catalogue = ModelCatalog(tmp_path)
    best = selection.default_model(catalogue, settings())
    assert best is not None and best.name == "more"


def test_a_named_default_must_exist(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    found = selection.default_model(ModelCatalog(tmp_path), settings(default_model="A"))
    assert found is not None and found.name == "a"
    with pytest.raises(ModelNotFound, match="Available models: a"):
        selection.default_model(ModelCatalog(tmp_path), settings(default_model="b"))
    assert selection.default_model(ModelCatalog(tmp_path / "none"), settings()) is None


def test_a_model_no_engine_loads_gets_each_engines_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, PLAIN, llama_cpp=LLAMA_CPU)
    write_folder(tmp_path / "folder")
    model = ModelCatalog(tmp_path).find("folder")
    with pytest.raises(EngineFailed, match="llama_cpp: llama\\.cpp loads GGUF files"):
        selection.rank_engines(model, settings())
