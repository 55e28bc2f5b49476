from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.models.gguf_files import write_gguf
from vllm_obtain.errors import ModelNotFound
from vllm_obtain.models import Model, ModelCatalog, catalog
from vllm_obtain.models.scan import scan


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def names(known: ModelCatalog) -> list[str]:
    return [model.name for model in known.models()]


def test_what_has_just_got_its_name_is_found_at_once(tmp_path: Path, clock: Clock) -> None:
    catalog = ModelCatalog(tmp_path / "later", clock)
    assert names(catalog) == []
    write_gguf(tmp_path / "later" / "a.gguf")
    assert catalog.find("a").name == "a"


def test_scans_at_most_once_a_second(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "later" / "a").mkdir(parents=True)
    catalog = ModelCatalog(tmp_path / "later", clock)
    assert names(catalog) == []
    write_gguf(tmp_path / "later" / "a" / "a.gguf")
    clock.now = 0.99
    assert names(catalog) == []
    with pytest.raises(ModelNotFound):
        catalog.find("a")
    clock.now = 1.0
    assert names(catalog) == ["a"]


def test_a_known_model_is_found_without_the_disk(tmp_path: Path, clock: Clock) -> None:
    write_gguf(tmp_path / "a.gguf")
    catalog = ModelCatalog(tmp_path, clock)
    assert catalog.find("a").name == "a"
    shutil.rmtree(tmp_path)
    clock.now = 60
    assert catalog.find("a").name == "a"
    with pytest.raises(ModelNotFound):
        catalog.find("b")
    with pytest.raises(ModelNotFound):
        catalog.find("a")


def test_a_new_model_is_found(tmp_path: Path, clock: Clock) -> None:
    catalog = ModelCatalog(tmp_path, clock)
    catalog.models()
    write_gguf(tmp_path / "new.gguf")
    clock.now = 1
    assert catalog.find("new").name == "new"


def test_exact_names_win_over_capitals(tmp_path: Path) -> None:
    write_gguf(tmp_path / "one" / "x.gguf")
    write_gguf(tmp_path / "two.gguf")
    catalog = ModelCatalog(tmp_path)
    assert catalog.find("ONE").name == "one"
    write_gguf(tmp_path / "both" / "Tiny.gguf")
    write_gguf(tmp_path / "both" / "tiny.gguf")
    catalog = ModelCatalog(tmp_path)
    if len(catalog.models()) == 4:  # not on a file system that takes them for the same
        assert catalog.find("both/tiny").name == "both/tiny"
        assert catalog.find("both/Tiny").name == "both/Tiny"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("qwen3-8b:latest", "qwen3-8b"),
        ("qwen3:8b", "qwen3-8b"),
        ("Qwen3:8B", "qwen3-8b"),
        ("openai/qwen3-8b", "qwen3-8b"),
        ("hosted_vllm/qwen3-8b", "qwen3-8b"),
        ("ollama/qwen3:8b", "qwen3-8b"),
        ("ollama_chat/tiny:latest", "tiny"),
        ("openai/big", "openai/big"),
    ],
)
def test_a_name_as_other_services_write_it_is_found(tmp_path: Path, name: str, found: str) -> None:
    for path in ("qwen3-8b", "tiny", "openai/big", "openai/small"):
        write_gguf(tmp_path / f"{path}.gguf")
    assert ModelCatalog(tmp_path).find(name).name == found


@pytest.mark.parametrize(
    ("name", "meant"),
    [("qwen3-8", "qwen3-8b"), ("Qwen/Qwen3-8B-Instruct", "qwen3-8b"), ("smal", "openai/small")],
)
def test_an_unknown_name_gets_the_most_similar_one(tmp_path: Path, name: str, meant: str) -> None:
    for path in ("qwen3-8b", "tiny", "openai/big", "openai/small"):
        write_gguf(tmp_path / f"{path}.gguf")
    with pytest.raises(ModelNotFound, match=f"Did you mean '{meant}'?"):
        ModelCatalog(tmp_path).find(name)
    with pytest.raises(ModelNotFound) as caught:
        ModelCatalog(tmp_path).find("gpt-4o")
    assert "Did you mean" not in caught.value.message


@pytest.mark.parametrize(
    "name", ["", "\0", "a\0", "/etc/passwd", "../a", "a.gguf", "./a", "a/", "\ud800", "a" * 9999]
)
def test_unknown_names(tmp_path: Path, name: str) -> None:
    write_gguf(tmp_path / "models" / "a.gguf")
    write_gguf(tmp_path / "a.gguf")
    with pytest.raises(ModelNotFound) as caught:
        ModelCatalog(tmp_path / "models").find(name)
    assert "Available models: a." in caught.value.message
    assert len(caught.value.message) < 300


def test_known_is_the_last_scan_without_a_look_at_the_disk(tmp_path: Path, clock: Clock) -> None:
    catalog = ModelCatalog(tmp_path, clock)
    catalog.models()
    write_gguf(tmp_path / "b.gguf")
    clock.now = 2
    assert catalog.known() == ()
    catalog.models()
    assert [model.name for model in catalog.known()] == ["b"]


def test_nobody_waits_for_a_scan_that_is_not_the_first(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "a.gguf")
    known = ModelCatalog(tmp_path, clock)
    known.models()
    entered, leave = threading.Event(), threading.Event()

    def slow_scan(models_dir: Path, before: Iterable[Model]) -> list[Model]:
        entered.set()
        assert leave.wait(10)
        return list(before)

    monkeypatch.setattr(catalog, "scan", slow_scan)
    clock.now = 1
    other = threading.Thread(target=known.models)
    other.start()
    assert entered.wait(10)
    assert names(known) == ["a"]
    assert known.find("a").name == "a"
    leave.set()
    other.join()


def test_the_first_scan_is_waited_for_and_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "a.gguf")
    scans: list[Path] = []
    real_scan = scan

    def counted(models_dir: Path, before: Iterable[Model]) -> list[Model]:
        scans.append(models_dir)
        return real_scan(models_dir, before)

    monkeypatch.setattr(catalog, "scan", counted)
    known = ModelCatalog(tmp_path, Clock())
    found: list[Model] = []
    threads = [threading.Thread(target=lambda: found.append(known.find("a"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(scans) == 1


def test_a_failed_scan_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "a.gguf")
    known = ModelCatalog(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(catalog, "scan", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            known.models()
    assert names(known) == ["a"]
