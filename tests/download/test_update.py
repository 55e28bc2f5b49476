"""Updates without a service: what would change, what arrives, and what stays when it does not."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.download.hubs import File, Hub
from tests.download.test_download import FILE, MB, REPO, get, is_whole, left_behind
from tests.download.updates import assert_old_is_whole, check_update, publish, run_update, version
from tests.service import ROOT
from vllm_obtain.config.settings import Settings
from vllm_obtain.download import install, manifest
from vllm_obtain.download.staging import StagingDir
from vllm_obtain.download.update import NotReadable, rollback
from vllm_obtain.errors import (
    FetchFailed,
    InsufficientStorage,
    NoPrevious,
    NotFetched,
    ServiceError,
)
from vllm_obtain.models.scan import scan

OTHER = "f" * 40


def test_where_nothing_is_new_nothing_is_fetched(settings: Settings, huggingface: Hub) -> None:
    publish(huggingface, 1)
    get(settings)
    huggingface.requests.clear()
    # Another commit, of files that are no part of the model.
    huggingface.commit = OTHER
    huggingface.repositories[REPO]["README.md"] = File(b"hello again", lfs=False)
    found = check_update(settings)
    assert (found.name, found.state, found.files, found.download) == ("tiny-GGUF", "current", [], 0)
    assert run_update(settings) is False
    assert huggingface.requests == [] and left_behind(settings.models_dir) == ["tiny-GGUF"]


@pytest.mark.parametrize("place", ["hf", "modelscope"])
def test_a_new_version_is_told_of_brought_and_taken_back(
    settings: Settings, huggingface: Hub, modelscope: Hub, place: str
) -> None:
    hub = huggingface if place == "hf" else modelscope
    publish(hub, 1)
    get(settings, f"{place}:{REPO}")
    before = check_update(settings)
    file = publish(hub, 2, size=500)
    found = check_update(settings)
    assert (found.state, found.source) == ("update", f"{place}:{REPO}")
    assert found.here == before.here != found.there
    assert [(each.path, each.change, each.size) for each in found.files] == [
        (FILE, "changed", file.size)
    ]
    assert found.download == file.size and not found.previous
    # Looking changes nothing.
    assert_old_is_whole(settings)
    assert run_update(settings) is True
    assert_old_is_whole(settings, 2)
    now = check_update(settings)
    assert (now.state, now.here, now.previous) == ("current", found.there, True)
    assert left_behind(settings.models_dir) == [".previous-tiny-GGUF", "tiny-GGUF"]
    assert rollback("tiny-gguf", settings).revision == before.here
    assert_old_is_whole(settings)
    assert check_update(settings).state == "update"
    # The one that was in place is the one before now.
    rollback("tiny-GGUF", settings)
    assert_old_is_whole(settings, 2)


def test_only_what_changed_is_fetched_and_what_is_gone_goes(
    settings: Settings, huggingface: Hub
) -> None:

    files = {
        "model.safetensors": File(b"\x02\0\0\0\0\0\0\0{}" + b"\0" * MB),
        "config.json": File(b'{"architectures": ["LlamaForCausalLM"]}', lfs=False),
        "tokenizer.json": File(b"{}" * 5000),
        "vocab.json": File(b"{}", lfs=False),
    }
    huggingface.repositories["owner/folder"] = files
    folder = get(settings, "hf:owner/folder")
    del files["vocab.json"]
    files["config.json"] = File(b'{"architectures": ["LlamaForCausalLM"], "x": 1}', lfs=False)
    files["generation_config.json"] = File(b'{"top_k": 5}', lfs=False)
    huggingface.requests.clear()
    found = check_update(settings)
    assert {(each.path, each.change) for each in found.files} == {
        ("config.json", "changed"),
        ("generation_config.json", "new"),
        ("vocab.json", "removed"),
    }
    assert found.download == files["config.json"].size + files["generation_config.json"].size
    assert run_update(settings, "folder")
    assert sorted(path for path, _ in huggingface.requests) == [
        "config.json",
        "generation_config.json",
    ]
    assert is_whole(folder) and not (folder / "vocab.json").exists()
    # What did not change is on the disk once.
    previous = install.previous(settings.models_dir, "folder") / "model.safetensors"
    assert previous.samefile(folder / "model.safetensors")
    rollback("folder", settings)
    assert is_whole(folder) and (folder / "vocab.json").exists()


def test_what_arrives_spoiled_leaves_the_old_one(settings: Settings, huggingface: Hub) -> None:
    publish(huggingface, 1)
    get(settings)
    publish(huggingface, 2, size=5000)
    huggingface.faults.spoiled = 99
    with pytest.raises(FetchFailed, match="wrong checksum"):
        run_update(settings)
    assert_old_is_whole(settings)
    huggingface.faults.spoiled = 1
    assert run_update(settings)
    assert_old_is_whole(settings, 2)


def test_what_is_no_model_leaves_the_old_one(settings: Settings, huggingface: Hub) -> None:
    publish(huggingface, 1)
    get(settings)
    huggingface.repositories[REPO][FILE] = File(made=MB)
    with pytest.raises(NotReadable, match="installed version stays"):
        run_update(settings)
    assert_old_is_whole(settings)


def test_a_disk_without_room_is_refused_before_the_first_byte(
    settings: Settings, huggingface: Hub
) -> None:
    publish(huggingface, 1)
    get(settings)
    publish(huggingface, 2)
    run_update(settings)
    huggingface.requests.clear()
    publish(huggingface, 3).claimed = 10**15
    with pytest.raises(InsufficientStorage):
        run_update(settings)
    assert huggingface.requests == []
    assert_old_is_whole(settings, 2)
    # What would not have been enough was not given up.
    assert check_update(settings).previous


def test_a_version_before_gives_way_when_its_room_is_needed(
    settings: Settings, huggingface: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(huggingface, 1, size=MB)
    get(settings)
    publish(huggingface, 2)
    run_update(settings)
    previous = install.previous(settings.models_dir, "tiny-GGUF")
    usage = collections.namedtuple("usage", "total used free")

    def disk(_: object) -> object:
        return usage(10**12, 0, 64 * 1024**2 + (0 if previous.exists() else MB))

    publish(huggingface, 3)
    monkeypatch.setattr(shutil, "disk_usage", disk)
    assert run_update(settings, keep=False)
    assert_old_is_whole(settings, 3)
    assert not previous.exists()
    with pytest.raises(NoPrevious):
        rollback("tiny-GGUF", settings)


def test_a_version_before_that_was_touched_is_not_put_back(
    settings: Settings, huggingface: Hub
) -> None:
    publish(huggingface, 1)
    get(settings)
    publish(huggingface, 2)
    run_update(settings)
    previous = install.previous(settings.models_dir, "tiny-GGUF") / FILE
    previous.write_bytes(previous.read_bytes()[:-1] + b"x")
    with pytest.raises(FetchFailed, match="is damaged"):
        rollback("tiny-GGUF", settings)
    assert_old_is_whole(settings, 2)


def test_a_process_killed_in_the_middle_leaves_the_old_one_and_is_gone_on_from(
    settings: Settings, huggingface: Hub, tmp_path: Path
) -> None:
    publish(huggingface, 1)
    get(settings)
    publish(huggingface, 2, size=6 * MB)
    env = {**os.environ, **settings.environ(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vllm_obtain.download", "--task", "update", "tiny-GGUF"]
    huggingface.faults.rate = 4 * MB
    huggingface.sent.clear()
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        # Told by what is on the disk: bytes of the new version are there.
        for line in child.stdout:
            if b'"downloading"' in line and huggingface.sent.get(FILE, 0) > MB:
                break
        child.kill()
    assert_old_is_whole(settings)
    huggingface.faults.rate = 0
    assert run_update(settings)
    assert_old_is_whole(settings, 2)
    assert "bytes=" in huggingface.transfers[-1]


@pytest.mark.parametrize("can", [True, False])
def test_at_no_step_is_there_no_model(
    settings: Settings, huggingface: Hub, monkeypatch: pytest.MonkeyPatch, can: bool
) -> None:
    """Killed before or after any rename, a model is there, or is put back by the next who looks."""
    publish(huggingface, 1)
    get(settings)
    publish(huggingface, 2)
    if not can:
        monkeypatch.setattr(install, "exchange", lambda *_: False)
    steps: list[str] = []
    rename = Path.replace

    def dying(self: Path, to: Path, deadly: int) -> Path:
        if self.parent.name.startswith(".fetching-") or to.parent.name.startswith(".fetching-"):
            steps.append(to.name)
            if len(steps) == deadly:
                raise KeyboardInterrupt
        return rename(self, to)

    for nth in (1, 2, 3):
        steps.clear()
        with monkeypatch.context() as dies:
            dies.setattr(Path, "replace", lambda a, b, nth=nth: dying(a, b, nth))
            with contextlib.suppress(KeyboardInterrupt):
                run_update(settings)
        install.recover(settings.models_dir)
        (found,) = scan(settings.models_dir)
        assert found.problem is None and is_whole(settings.models_dir / "tiny-GGUF")
    run_update(settings)
    assert_old_is_whole(settings, 2)


def test_what_was_not_fetched_and_what_lies_behind_a_link_is_left_alone(
    settings: Settings, huggingface: Hub, tmp_path: Path
) -> None:
    publish(huggingface, 1)
    folder = get(settings)
    with pytest.raises(NotFetched, match="was not downloaded"):
        run_update(settings, "none")
    publish(huggingface, 2)
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    with pytest.raises(ServiceError, match="symbolic link"):
        run_update(settings)
    assert (elsewhere / FILE).read_bytes() == version(1)


def test_who_pulls_again_with_force_leaves_nothing(settings: Settings, huggingface: Hub) -> None:
    publish(huggingface, 1)
    get(settings)
    publish(huggingface, 2)
    get(settings, force=True)
    assert_old_is_whole(settings, 2)
    assert left_behind(settings.models_dir) == ["tiny-GGUF"]
    assert not StagingDir(settings.models_dir, "tiny-GGUF").folder.exists()
    found = manifest.read(settings.models_dir / "tiny-GGUF")
    assert found is not None and found.revision == f"{2:040x}"
