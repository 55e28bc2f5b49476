"""Folders and instances for the tests of the supervisor."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.supervisor.instance import Instance
from vllm_obtain.supervisor.memory import estimate as memory_estimate


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A folder for sockets; short, since their paths are limited."""
    path = Path(tempfile.mkdtemp(prefix="vo-", dir="/tmp"))
    yield path
    left = [each.name for each in path.iterdir()]
    shutil.rmtree(path)
    assert not left, f"left behind: {left}"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder for models."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def instances(tmp_path: Path, models: Path) -> Iterator[Callable[..., Instance]]:
    """Makes instances of the service, each on a port of its own; none outlives the test."""
    made: list[Instance] = []

    def make(**env: Any) -> Instance:
        made.append(Instance(models, tmp_path / f"logs{len(made)}", **env))
        return made[-1]

    yield make
    for instance in made:
        instance.close()


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which two engines never fit."""
    monkeypatch.setattr(memory_estimate, "fits", lambda *_: False)
