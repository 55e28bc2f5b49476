"""Which engine serves what, and which model is the default."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.catalogue.gguf_files import write_gguf
from tests.catalogue.safetensors_files import write_folder
from vllm_obtain.catalogue import Catalogue
from vllm_obtain.engines import registry
from vllm_obtain.errors import EngineFailed, ModelNotFound
from vllm_obtain.settings import Settings


def settings(**values: str) -> Settings:
    return Settings.load({name.upper(): value for name, value in values.items()})


def test_the_default_is_the_first_model_that_can_be_served(tmp_path: Path) -> None:
    write_folder(tmp_path / "a-folder")
    catalogue = Catalogue(tmp_path)
    folder = registry.default_model(catalogue, settings())
    assert folder is not None and folder.name == "a-folder"
    (tmp_path / "more").mkdir()
    write_gguf(tmp_path / "more" / "b.gguf")
    catalogue = Catalogue(tmp_path)
    best = registry.default_model(catalogue, settings())
    assert best is not None and best.name == "more"


def test_a_named_default_must_exist(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    found = registry.default_model(Catalogue(tmp_path), settings(default_model="A"))
    assert found is not None and found.name == "a"
    with pytest.raises(ModelNotFound, match="Models here: a"):
        registry.default_model(Catalogue(tmp_path), settings(default_model="b"))
    assert registry.default_model(Catalogue(tmp_path / "none"), settings()) is None


def test_an_engine_that_is_not_there_says_what_to_set(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    model = Catalogue(tmp_path).find("a")
    with pytest.raises(EngineFailed, match=r"not part of this version.*INFERENCE_ENGINE=auto"):
        registry.choose(model, settings(inference_engine="mlx"))
    with pytest.raises(EngineFailed, match="'mine' cannot be imported from 'nowhere:X'"):
        registry.choose(model, settings(inference_engine="mine", extra_engines="mine=nowhere:X"))


def test_a_model_no_engine_loads_gets_each_engines_reason(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    model = Catalogue(tmp_path).find("folder")
    with pytest.raises(EngineFailed, match="llama_cpp: llama\\.cpp loads GGUF files"):
        registry.choose(model, settings())
