"""A service with a model that can see and one that cannot, and a server of images."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import ROOT, Service
from tests.vision.model import write_projector, write_text_model
from tests.vision.pictures import Pictures

SEER, BLIND = "seer", "blind"


@pytest.fixture(scope="session")
def vision_models(model_here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MODELS_DIR: a model with a projector beside it, and the same without one."""
    folder = tmp_path_factory.mktemp("models")
    (source,) = (ROOT / "models" / "smollm2-135m").glob("*.gguf")
    model = write_text_model(folder / SEER / f"{SEER}-F32.gguf", source)
    write_projector(folder / SEER / "mmproj-F32.gguf")
    (folder / BLIND).mkdir()
    shutil.copy(model, folder / BLIND / f"{BLIND}-F32.gguf")
    return folder


@pytest.fixture(scope="session")
def vision_service(
    vision_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service on llama.cpp; it may fetch images from this machine."""
    env = {
        "MODELS_DIR": str(vision_models),
        "INFERENCE_ENGINE": "llama_cpp",
        "DEFAULT_MODEL": SEER,
        "MAX_CONCURRENT_MODELS": "2",
        "ENABLE_CACHING": "false",
        "IMAGE_PRIVATE_ADDRESSES": "true",
        "IMAGE_MAX_COUNT": "4",
        "IMAGE_MAX_MB": "1",
        "IMAGE_MAX_MEGAPIXELS": "1",
        "IMAGE_FETCH_TIMEOUT": "2",
    }
    with Service(["run.py", "--no-fetch"], tmp_path_factory.mktemp("seeing"), env) as service:
        yield service


@pytest.fixture(scope="session")
def pictures() -> Iterator[Pictures]:
    """A server of images on this machine."""
    with Pictures() as server:
        yield server
