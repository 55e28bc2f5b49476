"""Fetching with the hubs' own client libraries, from servers that cut, spoil, slow and refuse."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.download.conftest import MakeSettings
from tests.download.hubs import File, Hub
from vllm_obtain.config.settings import Settings
from vllm_obtain.download import manifest
from vllm_obtain.download.download import PullRequest, download_model
from vllm_obtain.errors import (
    FetchFailed,
    InsufficientStorage,
    InvalidRequest,
    ModelExists,
    SourceNotFound,
)
from vllm_obtain.models.progress import Progress
from vllm_obtain.models.scan import scan

REPO = "owner/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"
MB = 1_000_000


class ProgressRecorder(list[Progress]):
    """All reported progress."""

    def report(self, progress: Progress) -> None:
        self.append(progress)

    @property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(each.stage for each in self))


def get(settings: Settings, what: str = f"hf:{REPO}", recorder: Any = None, **more: Any) -> Path:
    report = (recorder if recorder is not None else ProgressRecorder()).report
    return download_model(PullRequest(what, **more), settings, report)


def serve(hub: Hub, size: int = MB, name: str = REPO) -> File:
    file = File(made=size)
    hub.repositories[name] = {
        FILE: file,
        "tiny-Q8_0.gguf": File(made=2 * size),
        "README.md": File(b"hello", lfs=False),
        "convert.py": File(b"import os", lfs=False),
    }
    return file


def is_whole(folder: Path) -> bool:
    found = manifest.read(folder)
    assert found is not None
    return not list(manifest.faults(folder, found))


def left_behind(models: Path) -> list[str]:
    return sorted(each.name for each in models.iterdir() if not each.name.endswith(".lock"))


def test_300_mb_arrive_whole_though_the_connection_is_cut_20_times(
    settings: Settings, huggingface: Hub
) -> None:
    file = serve(huggingface, 300 * MB)
    huggingface.faults.cuts, huggingface.faults.cut_after = 20, 14 * MB
    recorder = ProgressRecorder()
    folder = get(settings, recorder=recorder)
    assert huggingface.faults.cuts == 0 and len(huggingface.transfers) == 21
    # What had arrived was not fetched again, but for the piece that was on its way.
    assert huggingface.sent[FILE] < 307 * MB
    found = manifest.read(folder)
    assert found is not None and [each.sha256 for each in found.files] == [file.sha256]
    assert recorder[-1].done == recorder[-1].total == 300 * MB
    done = [each.done for each in recorder if each.stage == "downloading"]
    assert done == sorted(done) and any(each.rate > 0 for each in recorder)
    assert left_behind(settings.models_dir) == ["tiny-GGUF"]


def test_modelscopes_client_goes_on_after_cuts_too(settings: Settings, modelscope: Hub) -> None:
    serve(modelscope, 20 * MB)
    modelscope.faults.cuts, modelscope.faults.cut_after = 6, 3 * MB
    folder = get(settings, f"modelscope:{REPO}")
    assert modelscope.faults.cuts == 0 and is_whole(folder)
    assert modelscope.sent[FILE] == 20 * MB
    assert [each.name for each in folder.iterdir() if each.name[0] != "."] == [FILE]


@pytest.mark.parametrize("place", ["hf", "modelscope"])
def test_a_spoiled_file_is_refused_and_fetched_again(
    settings: Settings, huggingface: Hub, modelscope: Hub, place: str
) -> None:
    hub = huggingface if place == "hf" else modelscope
    serve(hub)
    hub.faults.spoiled = 1
    recorder = ProgressRecorder()
    assert is_whole(get(settings, f"{place}:{REPO}", recorder))
    assert len(hub.transfers) == 2
    assert any("downloading it again" in each.detail for each in recorder)


def test_a_file_that_stays_spoiled_is_given_up_and_never_becomes_a_model(
    settings: Settings, huggingface: Hub
) -> None:
    serve(huggingface)
    huggingface.faults.spoiled = 99
    with pytest.raises(FetchFailed, match="wrong checksum"):
        get(settings)
    assert len(huggingface.transfers) == 3
    assert scan(settings.models_dir) == []


def test_small_files_are_checked_by_gits_checksum(settings: Settings, huggingface: Hub) -> None:
    huggingface.repositories["owner/folder"] = {
        "model.safetensors": File(made=MB),
        "config.json": File(b'{"a": 1}' * 200, lfs=False),
    }
    huggingface.faults.spoiled, huggingface.faults.least = 2, 1500
    folder = get(settings, "hf:owner/folder")
    found = manifest.read(folder)
    assert found is not None and is_whole(folder)
    assert {each.path: bool(each.blob) for each in found.files} == {
        "model.safetensors": False,
        "config.json": True,
    }
    assert len(huggingface.requests) == 4


@pytest.mark.parametrize("place", ["hf", "modelscope"])
def test_a_full_disk_is_refused_before_the_first_byte(
    settings: Settings, huggingface: Hub, modelscope: Hub, place: str
) -> None:
    hub = huggingface if place == "hf" else modelscope
    serve(hub).claimed = 10**15
    with pytest.raises(InsufficientStorage, match=r"has 1,000,000\.00 GB.* free\. Free"):
        get(settings, f"{place}:{REPO}")
    assert hub.requests == []


def test_two_pulls_of_one_model_share_one_download(settings: Settings, huggingface: Hub) -> None:
    serve(huggingface, 5 * MB)
    huggingface.gate.clear()
    recorder = [ProgressRecorder(), ProgressRecorder()]
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda h=each: folders.append(get(settings, recorder=h)))
        for each in recorder
    ]
    threads[0].start()
    assert wait(lambda: huggingface.requests)
    threads[1].start()
    assert wait(lambda: any(each.stage == "waiting" and each.total for each in recorder[1]))
    huggingface.gate.set()
    for thread in threads:
        thread.join(20)
    assert len(folders) == 2 and is_whole(folders[0])
    assert huggingface.sent[FILE] == 5 * MB and len(huggingface.transfers) == 1
    assert recorder[1].stages == ["waiting"] and recorder[1][-1].total == 5 * MB


def wait(check: Any) -> bool:
    for _ in range(400):
        if check():
            return True
        threading.Event().wait(0.025)
    return False


def test_nothing_half_done_is_a_model_and_the_next_try_goes_on(
    settings: Settings, huggingface: Hub
) -> None:
    serve(huggingface, 4 * MB)
    huggingface.faults.cuts, huggingface.faults.cut_after = 1, 3 * MB
    huggingface.faults.file_status = [0, 403]
    with pytest.raises(SourceNotFound, match="Access denied"):
        get(settings)
    assert scan(settings.models_dir) == []
    assert is_whole(get(settings))
    assert huggingface.sent[FILE] < 4.3 * MB


def test_a_hub_that_is_busy_is_asked_again(settings: Settings, huggingface: Hub) -> None:
    serve(huggingface)
    huggingface.faults.file_status = [503, 502, 503]
    assert is_whole(get(settings))


def test_a_slow_hub_shows_rate_and_time_left(settings: Settings, huggingface: Hub) -> None:
    serve(huggingface, 1 * MB)
    huggingface.faults.rate = 1 * MB
    recorder = ProgressRecorder()
    get(settings, recorder=recorder)
    told = [each for each in recorder if each.left is not None and each.stage == "downloading"]
    assert told and all(0 < each.rate < 4 * MB for each in told)


def test_what_is_here_is_not_fetched_again(settings: Settings, huggingface: Hub) -> None:
    serve(huggingface)
    folder = get(settings)
    asked = len(huggingface.requests)
    huggingface.faults.status = 500  # nobody needs to answer
    assert get(settings) == folder and len(huggingface.requests) == asked
    huggingface.faults.status = 0
    (folder / FILE).write_bytes(b"short")
    assert is_whole(get(settings)) and len(huggingface.requests) == asked + 1


def test_another_model_of_that_name_is_left_alone(settings: Settings, huggingface: Hub) -> None:
    serve(huggingface)
    serve(huggingface, name="other/tiny-GGUF")
    folder = get(settings)
    with pytest.raises(ModelExists, match="from hf:owner/tiny-GGUF"):
        get(settings, "hf:other/tiny-GGUF")
    get(settings, "hf:other/tiny-GGUF", force=True)
    found = manifest.read(folder)
    assert found is not None and found.source == "hf:other/tiny-GGUF"
    assert get(settings, name="mine").name == "mine"
    (settings.models_dir / "hers").mkdir()
    with pytest.raises(ModelExists, match="was not created by `pull`"):
        get(settings, name="hers", force=True)


def test_only_what_makes_the_model_is_taken(settings: Settings, huggingface: Hub) -> None:
    huggingface.repositories["owner/folder"] = {
        "model.safetensors": File(made=MB),
        "config.json": File(b"{}", lfs=False),
        "tokenizer.json": File(b"{}", lfs=False),
        "1_Pooling/config.json": File(b"{}", lfs=False),
        "pytorch_model.bin": File(made=MB),
        "modeling_own.py": File(b"import os", lfs=False),
        "onnx/model.safetensors": File(made=MB),
        "../evil.json": File(b"{}", lfs=False),
        "/etc/evil.json": File(b"{}", lfs=False),
        ".hidden.json": File(b"{}", lfs=False),
    }
    folder = get(settings, "hf:owner/folder")
    found = manifest.read(folder)
    assert found is not None and found.form == "safetensors"
    assert sorted(each.path for each in found.files) == [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert not (settings.models_dir / "evil.json").exists()


def test_pickles_are_refused(settings: Settings, huggingface: Hub) -> None:
    huggingface.repositories["owner/old"] = {"pytorch_model.bin": File(made=MB)}
    with pytest.raises(SourceNotFound, match="such as pickles"):
        get(settings, "hf:owner/old")


OWN = """
[models.mine]
about = "My own"
kind = "chat"
parameters = 0.1
licence = "MIT"
family = "chatml"
context = 2048
[models.mine.gguf]
huggingface = "owner/tiny-GGUF"
modelscope = "theirs/tiny-GGUF"
file = "*-q4_k_m.gguf"
size = 1_000_000
[models.mine.safetensors]
modelscope = "theirs/tiny"
size = 2_000_000
"""


def write_catalogue(settings: Settings) -> None:
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    (settings.models_dir / "catalogue.toml").write_text(OWN)


def source_of(folder: Path) -> str:
    found = manifest.read(folder)
    assert found is not None
    return found.source


def test_modelscope_is_asked_where_hugging_face_does_not_answer(
    make_settings: MakeSettings, huggingface: Hub, modelscope: Hub
) -> None:
    settings = make_settings(HF_ENDPOINT="http://127.0.0.1:9")
    write_catalogue(settings)
    serve(modelscope, name="theirs/tiny-GGUF")
    assert source_of(get(settings, "mine")) == "modelscope:theirs/tiny-GGUF:*-q4_k_m.gguf"


def test_model_source_pins_the_hub(
    make_settings: MakeSettings, huggingface: Hub, modelscope: Hub
) -> None:
    serve(huggingface)
    serve(modelscope, name="theirs/tiny-GGUF")
    for pin, start in [("modelscope", "modelscope:"), ("huggingface", "hf:"), ("auto", "hf:")]:
        settings = make_settings(MODEL_SOURCE=pin)
        write_catalogue(settings)
        folder = get(settings, "MINE")
        assert source_of(folder).startswith(start)
        shutil.rmtree(folder)


def test_the_format_suits_the_engine_of_this_machine(
    make_settings: MakeSettings, huggingface: Hub, modelscope: Hub
) -> None:
    serve(huggingface)
    modelscope.repositories["theirs/tiny"] = {"model.safetensors": File(made=MB)}
    settings = make_settings()
    write_catalogue(settings)
    assert (get(settings, "mine") / FILE).is_file()
    with pytest.raises(ModelExists):
        get(settings, "mine", form="safetensors")
    folder = get(settings, "mine", form="safetensors", force=True)
    assert (folder / "model.safetensors").is_file() and not (folder / FILE).exists()
    with pytest.raises(
        SourceNotFound, match=r"not available as mlx\. Use one of: gguf, safetensors"
    ):
        get(settings, "mine", form="mlx", force=True)


def test_who_does_not_answer_is_told_of(make_settings: MakeSettings) -> None:
    nobody = "http://127.0.0.1:9"
    settings = make_settings(HF_ENDPOINT=nobody, MODELSCOPE_ENDPOINT=nobody)
    write_catalogue(settings)
    with pytest.raises(FetchFailed, match=r"hf:owner.*unreachable.*modelscope:.*HF_ENDPOINT"):
        get(settings, "mine")


def test_a_file_at_an_address(settings: Settings, huggingface: Hub) -> None:
    file = serve(huggingface)
    url = f"{huggingface.url}/{REPO}/resolve/main/{FILE}"
    huggingface.faults.cuts, huggingface.faults.cut_after = 1, MB // 2
    folder = get(settings, f"{url}#sha256={file.sha256}")
    assert folder.name == "tiny-Q4_K_M" and is_whole(folder)
    with pytest.raises(FetchFailed, match="wrong checksum"):
        get(settings, f"{url}#sha256={'0' * 64}", name="wrong")


def test_a_folder_of_this_machine_is_copied(settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / "somewhere"
    source.mkdir()
    (source / "a-Q4_0.gguf").write_bytes(b"GGUF")
    (source / "notes.md").write_text("mine")
    folder = get(settings, str(source))
    assert [each.name for each in folder.iterdir() if each.name[0] != "."] == ["a-Q4_0.gguf"]
    with pytest.raises(InvalidRequest, match="not accepted over HTTP"):
        get(settings, str(source), allow_paths=False)


@pytest.mark.parametrize(
    "what",
    ["", "owner/repo", "hf:owner", "hf:../x", "hf:a/b:../../c.gguf", "http://example.org/a.gguf",
     "https://example.org/a.zip", "pypi:--index-url=x", "a b", "https://u:p@example.org/a.gguf",
     "\n"],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(settings: Settings, what: str) -> None:
    with pytest.raises(InvalidRequest):
        get(settings, what)


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "x.part", "", "a" * 200, "x.lock"])
def test_names_that_are_no_folders_are_refused(settings: Settings, name: str) -> None:
    with pytest.raises(InvalidRequest):
        get(settings, "hf:a/.b" if not name else "hf:a/b", name=name)


def test_an_unknown_name_says_what_is_near(settings: Settings) -> None:
    with pytest.raises(SourceNotFound, match=r"Did you mean .*qwen3-8b"):
        get(settings, "qwen3-8bb")
