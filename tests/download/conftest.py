from __future__ import annotations

import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.download.hubs import Hub, hub
from vllm_obtain.config.settings import Settings

MakeSettings = Callable[..., Settings]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's second before it goes on, twenty times over, is a test's whole time."""
    from huggingface_hub import file_download

    clock = types.SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    monkeypatch.setattr(file_download, "time", clock)


@pytest.fixture
def huggingface() -> Iterator[Hub]:
    with hub() as server:
        yield server


@pytest.fixture
def modelscope() -> Iterator[Hub]:
    with hub() as server:
        yield server


@pytest.fixture
def make_settings(tmp_path: Path, huggingface: Hub, modelscope: Hub) -> MakeSettings:
    """Settings whose hubs are the two of the test."""

    def make(**more: str) -> Settings:
        ours = {
            "MODELS_DIR": str(tmp_path / "models"),
            "HF_ENDPOINT": huggingface.url,
            "MODELSCOPE_ENDPOINT": modelscope.url,
            "INFERENCE_ENGINE": "llama_cpp",
        }
        return Settings.load({**ours, **more})

    return make


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings()
