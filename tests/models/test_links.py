from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.models.gguf_files import gguf_bytes, write_gguf
from tests.models.safetensors_files import write_folder
from vllm_obtain.models.scan import scan


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def names(models_dir: Path) -> list[str]:
    return [model.name for model in scan(models_dir)]


def snapshot(models_dir: Path, repository: str, revision: str, file: str) -> Path:
    """A file of the Hugging Face cache: a link into the blobs."""
    folder = models_dir / repository
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    (folder / "blobs" / f"blob-{revision}").write_bytes(gguf_bytes())
    link = folder / "snapshots" / revision / file
    link.parent.mkdir(parents=True)
    link.symlink_to(f"../../blobs/blob-{revision}")
    return link


def test_links_that_lead_out_are_not_followed(tmp_path: Path, models_dir: Path) -> None:
    outside = write_gguf(tmp_path / "outside" / "x.gguf")
    write_folder(tmp_path / "outside" / "st")
    (models_dir / "folder").symlink_to(outside.parent)
    (models_dir / "file.gguf").symlink_to(outside)
    (models_dir / "m").mkdir()
    for file in (tmp_path / "outside" / "st").iterdir():
        (models_dir / "m" / file.name).symlink_to(file)
    assert names(models_dir) == []


def test_a_neighbour_with_the_same_beginning_is_outside(tmp_path: Path, models_dir: Path) -> None:
    write_gguf(tmp_path / "models-old" / "x.gguf")
    (models_dir / "old").symlink_to(tmp_path / "models-old")
    assert names(models_dir) == []


def test_models_dir_may_be_a_link(tmp_path: Path, models_dir: Path) -> None:
    write_gguf(models_dir / "x.gguf")
    link = tmp_path / "link"
    link.symlink_to(models_dir)
    (model,) = scan(link)
    assert model.path == link / "x.gguf"


def test_loops_and_broken_links_end(models_dir: Path) -> None:
    write_gguf(models_dir / "a" / "x.gguf")
    (models_dir / "a" / "up").symlink_to("..")
    (models_dir / "b").symlink_to("a/up")
    (models_dir / "self").symlink_to("self")
    (models_dir / "gone.gguf").symlink_to("nowhere")
    assert names(models_dir) == ["a"]


def test_a_model_with_several_links_is_found_once(models_dir: Path) -> None:
    write_gguf(models_dir / "real" / "x.gguf")
    (models_dir / "alias").symlink_to("real")
    (models_dir / "alias.gguf").symlink_to("real/x.gguf")
    (models_dir / "real" / "a.gguf").symlink_to("x.gguf")
    assert names(models_dir) == ["real"]
    models_dir.with_name("link").symlink_to(models_dir)
    (model,) = scan(models_dir.with_name("link"))
    assert model.path == models_dir.with_name("link") / "real" / "x.gguf"


def test_hugging_face_cache(models_dir: Path) -> None:
    link = snapshot(models_dir, "models--org--name", "abc", "m.gguf")
    (models_dir / "models--org--name" / "refs").mkdir()
    (models_dir / ".locks" / "models--org--name").mkdir(parents=True)
    (models_dir / "version.txt").write_text("1")
    (model,) = scan(models_dir)
    assert (model.name, model.path) == ("org/name", link)
    assert model.size_bytes == len(gguf_bytes())


def test_only_the_newest_snapshot_counts(models_dir: Path) -> None:
    old = snapshot(models_dir, "models--org--name", "old", "m.gguf")
    new = snapshot(models_dir, "models--org--name", "new", "m.gguf")
    os.utime(old.parent, ns=(0, 1))
    os.utime(new.parent, ns=(0, 2))
    assert [model.path for model in scan(models_dir)] == [new]
    refs = models_dir / "models--org--name" / "refs"
    refs.mkdir()
    for content, expected in [("old", old), ("../../..", new), ("x" * 10_000, new), ("", new)]:
        (refs / "main").write_text(content)
        assert [model.path for model in scan(models_dir)] == [expected]


def test_an_empty_repository_of_the_cache(models_dir: Path) -> None:
    (models_dir / "models--org--name" / "snapshots").mkdir(parents=True)
    assert names(models_dir) == []
