"""Whole or not at all, one at a time, with room on the disk; and the child process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tests.models.convert.models import Small
from tests.service import ROOT
from vllm_obtain.models.convert import convert as conversion
from vllm_obtain.models.convert import plan
from vllm_obtain.models.convert.cleanup import sweep
from vllm_obtain.models.convert.convert import convert
from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.file_lock import locked
from vllm_obtain.models.progress import Progress
from vllm_obtain.models.scan import read_file

COMMAND = [sys.executable, "-m", "vllm_obtain.models.convert", "--to"]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Small().write(tmp_path / "m" / "a.gguf")


def ignore_progress(_: Progress) -> None:
    pass


def folders(source: Path) -> list[str]:
    return sorted(each.name for each in (source.parent / ".converted").iterdir() if each.is_dir())


def ask(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, cwd=ROOT)


def test_the_child_prints_progress_and_at_last_the_folder(source: Path) -> None:
    done = ask("mlx", str(source))
    assert (done.returncode, done.stderr) == (0, "")
    *progress, last = (json.loads(each) for each in done.stdout.splitlines())
    assert [each["stage"] for each in progress[:2]] == ["tokenizer", "weights"]
    assert progress[-1]["stage"] == "saving"
    assert progress[-1]["done"] == progress[-1]["total"] > 0
    assert last["stage"] == "done" and Path(last["path"]).is_dir()
    again = ask("mlx", str(source))
    assert [json.loads(each) for each in again.stdout.splitlines()] == [last]


@pytest.mark.parametrize("name", ["none.gguf", "text.gguf", "gemma.gguf"])
def test_the_child_ends_with_1_and_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    Small("gemma").write(tmp_path / "gemma.gguf")
    done = ask("hf", str(tmp_path / name))
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert json.loads(done.stdout) == {
        "stage": "failed",
        "error": sentence,
        "status": 503,
        "code": "conversion_failed",
    }
    assert sentence.endswith(".")
    assert not (tmp_path / ".converted").exists()


def test_a_child_that_is_stopped_leaves_nothing(source: Path) -> None:
    code = (
        "import sys, time; from vllm_obtain.models.convert import __main__ as m, convert;"
        "convert.write_weights = lambda *a: (print('now', flush=True), time.sleep(60));"
        f"sys.exit(m.main(['--to', 'hf', {str(source)!r}]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    while child.stdout.readline() != b"now\n":
        pass
    assert folders(source)[0].startswith(".partial-a-hf-")
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 143
    assert folders(source) == []


def test_what_a_killed_one_left_is_removed_by_the_next(source: Path) -> None:
    room = source.parent / ".converted"
    for name in (
        ".partial-a-mlx-0123456789ab",  # unfinished
        "a-mlx-0123456789ab",  # of an earlier version of the file
        "a-hf-0123456789ab",  # for another engine
        "a-b-mlx-0123456789ab",  # of another model
        ".partial-b-mlx-0123456789ab",
    ):
        (room / name).mkdir(parents=True)
        (room / name / "model.safetensors").write_text("x")
    made = convert(source, "mlx", ignore_progress)
    assert folders(source) == sorted(
        ["a-hf-0123456789ab", "a-b-mlx-0123456789ab", ".partial-b-mlx-0123456789ab", made.name]
    )


def test_a_changed_source_is_converted_anew(source: Path) -> None:
    first = convert(source, "hf", ignore_progress)
    assert convert(source, "hf", ignore_progress) == first
    Small(seed=1).write(source)
    os.utime(source, ns=(1, 1))
    second = convert(source, "hf", ignore_progress)
    assert second != first
    assert folders(source) == [second.name]


def test_a_source_that_changes_meanwhile_is_not_kept(source: Path) -> None:
    def report(said: Progress) -> None:
        if said.stage == "saving":
            os.utime(source, ns=(1, 1))

    with pytest.raises(ConversionError, match="changed during the conversion"):
        convert(source, "hf", report)
    assert folders(source) == []


def test_a_failure_in_the_middle_leaves_nothing(source: Path, monkeypatch: Any) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "write_weights", fail)
    with pytest.raises(ConversionError, match="No space left on device"):
        convert(source, "hf", ignore_progress)
    assert folders(source) == []


def test_room_on_the_disk_is_looked_for_first(source: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 5_000_000))
    model = read_file(source)
    assert model is not None
    needed = plan(model, "hf").bytes_needed // 10**6
    with pytest.raises(ConversionError, match=rf"a.gguf needs {needed} MB in .* only 5 MB are"):
        convert(source, "hf", ignore_progress)
    assert folders(source) == []


def test_a_folder_that_cannot_be_written_says_so(source: Path) -> None:
    (source.parent / ".converted").write_text("a file in the way")
    with pytest.raises(ConversionError, match=r"cannot be converted in .*File exists"):
        convert(source, "hf", ignore_progress)


def test_two_at_once_do_the_work_once(source: Path) -> None:
    reports: list[Progress] = []
    both = threading.Barrier(2)

    def report(progress: Progress) -> None:
        reports.append(progress)
        time.sleep(0.05)

    def one() -> None:
        both.wait()
        found.append(convert(source, "mlx", report))

    found: list[Path] = []
    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and len(set(found)) == 1
    assert [each.stage for each in reports].count("tokenizer") == 1


def test_what_no_model_needs_is_swept(source: Path) -> None:
    room = source.parent / ".converted"
    kept, busy = "a-mlx-0123456789ab", ".partial-a-hf-0123456789ab"
    for name in (kept, busy, ".partial-a-mlx-0123456789ab", "gone-hf-0123456789ab", "notes"):
        (room / name).mkdir(parents=True)
        (room / name / "model.safetensors").write_text("x")
    with locked(room / ".a-hf.lock", ""):
        removed = sweep(source.parents[1])
    assert [each.name for each in removed] == [
        ".partial-a-mlx-0123456789ab",
        "gone-hf-0123456789ab",
    ]
    assert folders(source) == sorted([kept, busy, "notes"])
    assert [each.name for each in sweep(source.parent)] == [busy]
    assert sweep(source.parent / "nothing") == []
