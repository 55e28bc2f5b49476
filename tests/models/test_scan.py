from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.models.gguf_files import gguf_bytes, write_gguf
from tests.models.safetensors_files import write_folder
from vllm_obtain.models.model import Model
from vllm_obtain.models.scan import scan


def models_by_name(models_dir: Path) -> dict[str, Model]:
    models = scan(models_dir)
    assert [model.name for model in models] == sorted({model.name for model in models})
    return {model.name: model for model in models}


def test_a_gguf_model(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tensors=1)
    os.utime(path, ns=(0, 1_700_000_000_900_000_000))
    (model,) = scan(tmp_path)
    assert (model.name, model.path, model.format) == ("tiny", path, "gguf")
    assert model.size_bytes == path.stat().st_size
    assert model.modified == 1_700_000_000
    assert (model.architecture, model.context_length) == ("llama", 512)
    assert model.header is not None
    assert model.problem is None


def test_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_gguf(tmp_path / f"{name}.gguf")
    write_folder(tmp_path / "aa")
    assert list(models_by_name(tmp_path)) == ["a", "aa", "b", "c"]


def test_missing_or_strange_models_dir(tmp_path: Path) -> None:
    assert scan(tmp_path / "missing") == []
    (tmp_path / "file").write_bytes(b"x")
    assert scan(tmp_path / "file") == []
    assert scan(tmp_path) == []


def test_modelscope_layouts(tmp_path: Path) -> None:
    old = write_folder(tmp_path / "qwen-0.5b" / "qwen" / "Qwen2___5-0___5B-Instruct")
    (old.parent / "Qwen2.5-0.5B-Instruct").symlink_to(old.name)
    (tmp_path / "qwen-0.5b" / "._____temp").mkdir()
    write_gguf(tmp_path / "qwen-0.5b" / "._____temp" / "half.gguf")
    new = write_folder(tmp_path / "new" / "models" / "qwen" / "Qwen3-0___6B")
    found = models_by_name(tmp_path)
    assert {name: model.path for name, model in found.items()} == {"qwen-0.5b": old, "new": new}


def test_several_models_in_a_folder(tmp_path: Path) -> None:
    write_gguf(tmp_path / "big" / "a-Q4.gguf")
    write_gguf(tmp_path / "big" / "deep" / "a-Q8.gguf")
    write_folder(tmp_path / "big" / "org" / "folder")
    assert list(models_by_name(tmp_path)) == ["big/a-Q4", "big/a-Q8", "big/folder"]


def test_a_split_model_is_one(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        write_gguf(tmp_path / "big" / f"x-0000{number}-of-00003.gguf", tensors=number)
    found = models_by_name(tmp_path)["big"]
    assert found.path.name == "x-00001-of-00003.gguf"
    assert found.size_bytes == sum(p.stat().st_size for p in (tmp_path / "big").iterdir())
    assert found.problem is None
    (tmp_path / "big").rename(tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").iterdir():
        path.rename(tmp_path / path.name)
    assert [model.name for model in scan(tmp_path)] == ["x"]


def test_a_split_model_with_a_missing_part(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x-00001-of-00003.gguf")
    write_gguf(tmp_path / "x-00003-of-00003.gguf")
    assert models_by_name(tmp_path)["x"].problem == "part 2 of 3 is missing"


def test_a_split_model_with_a_truncated_part(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x-00001-of-00002.gguf")
    last = tmp_path / "x-00002-of-00002.gguf"
    last.write_bytes(gguf_bytes({"general.architecture": None}, tensors=1)[:-1])
    problem = models_by_name(tmp_path)["x"].problem
    assert problem is not None
    assert problem.startswith("x-00002-of-00002.gguf is truncated")


def test_a_damaged_gguf_is_listed_with_its_problem(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(gguf_bytes(tensors=1)[:-1])
    (tmp_path / "empty.gguf").touch()
    found = models_by_name(tmp_path)
    assert (found["bad"].problem or "").startswith("bad.gguf is truncated: ")
    assert (found["empty"].problem or "").startswith("empty.gguf is not a GGUF file")
    assert found["bad"].header is None


def test_helpers_of_other_models_are_not_models(tmp_path: Path) -> None:
    write_gguf(tmp_path / "see" / "model.gguf")
    write_gguf(tmp_path / "see" / "mmproj-F16.gguf")
    write_gguf(tmp_path / "see" / "MMPROJ.gguf")
    write_gguf(tmp_path / "see" / "vision.gguf", {"general.architecture": "clip"})
    write_gguf(tmp_path / "see" / "lora.gguf", {"general.type": "adapter"})
    assert list(models_by_name(tmp_path)) == ["see"]


@pytest.mark.parametrize(
    "path",
    [
        ".x.gguf",
        "._x.gguf",
        ".partial-abc/x.gguf",
        "x.gguf.part",
        "x.gguf.incomplete",
        "x.lock/x.gguf",
        "x.incomplete/x.gguf",
        ".cache/huggingface/download/x.gguf",
    ],
)
def test_unfinished_and_hidden_things_are_left_out(tmp_path: Path, path: str) -> None:
    write_gguf(tmp_path / path)
    assert scan(tmp_path) == []


def test_a_running_aria2_download_is_left_out(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf")
    (tmp_path / "x.gguf.aria2").touch()
    assert scan(tmp_path) == []


def test_what_is_not_a_file_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "folder.gguf").mkdir()
    assert scan(tmp_path) == []


def test_unreadable_things_do_not_break_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "good.gguf")
    write_gguf(tmp_path / "secret" / "x.gguf")
    real_scandir = os.scandir

    def scandir(path: Path) -> object:  # chmod would not stop a test that runs as root
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [model.name for model in scan(tmp_path)] == ["good"]


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.gguf"
    try:
        Path(os.fsdecode(raw)).write_bytes(gguf_bytes())
    except OSError:
        pytest.skip("this file system only takes UTF-8")
    (model,) = scan(tmp_path)
    assert model.name == "caf?"
    assert model.path.exists()


def test_revision_follows_the_files(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf")
    os.utime(path, ns=(0, 1))
    first = scan(tmp_path)[0].revision
    assert scan(tmp_path)[0].revision == first
    os.utime(path, ns=(0, 2))
    second = scan(tmp_path)[0].revision
    write_gguf(path, tensors=1)
    os.utime(path, ns=(0, 2))
    assert len({first, second, scan(tmp_path)[0].revision}) == 3
    assert all(digit in "0123456789abcdef" for digit in first)


def test_unchanged_models_are_not_read_again(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", {"general.name": "AAAA"})
    before = scan(tmp_path)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    write_gguf(path, {"general.name": "BBBB"})
    os.utime(path, ns=times)
    assert scan(tmp_path, before) == before
    assert scan(tmp_path) != before


def test_sampling_comes_from_the_models_own_files(tmp_path: Path) -> None:
    write_gguf(
        tmp_path / "gguf" / "a.gguf",
        {"general.sampling.temp": 0.6, "general.sampling.top_k": 20, "general.sampling.top_p": 7.0},
    )
    folder = write_folder(tmp_path / "folder")
    config = {"temperature": 0.7, "top_k": None, "max_new_tokens": 5, "top_p": "x", "min_p": 0.1}
    (folder / "generation_config.json").write_text(json.dumps(config))
    broken = write_folder(tmp_path / "broken")
    (broken / "generation_config.json").write_text("{")
    found = {model.name: model for model in scan(tmp_path)}
    assert dict(found["gguf"].sampling) == {"temperature": 0.6, "top_k": 20}
    assert dict(found["folder"].sampling) == {"temperature": 0.7, "min_p": 0.1}
    assert found["broken"].sampling == () and found["broken"].problem is None
