"""Helpers for updates of a small model."""

from __future__ import annotations

from tests.download.hubs import File, Hub
from tests.download.test_download import FILE, REPO, ProgressRecorder, is_whole
from tests.models.gguf_files import gguf_bytes
from vllm_obtain.config.settings import Settings
from vllm_obtain.download.update import update
from vllm_obtain.download.update_check import ModelChange, check_updates
from vllm_obtain.models.scan import scan


def version(number: int, size: int = 0) -> bytes:
    """A small model that differs from those of other numbers."""
    return gguf_bytes({"general.name": f"version {number}"}) + b"\0" * size


def publish(hub: Hub, number: int, size: int = 0) -> File:
    file = File(version(number, size))
    hub.repositories[REPO] = {FILE: file, "README.md": File(b"hello", lfs=False)}
    hub.commit = f"{number:040x}"
    return file


def model_content(settings: Settings, name: str = "tiny-GGUF") -> bytes:
    return (settings.models_dir / name / FILE).read_bytes()


def check_update(settings: Settings) -> ModelChange:
    (found,) = check_updates(settings)
    return found


def run_update(settings: Settings, name: str = "tiny-GGUF", keep: bool = True) -> bool:
    return update(name, settings, ProgressRecorder().report, keep)


def assert_old_is_whole(settings: Settings, number: int = 1) -> None:
    assert model_content(settings).startswith(version(number))
    assert is_whole(settings.models_dir / "tiny-GGUF")
    assert [each.name for each in scan(settings.models_dir)] == ["tiny-GGUF"]
