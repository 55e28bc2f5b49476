"""A service with keys, on the fake engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.access.helpers import KeyedService


@pytest.fixture(scope="package")
def keyed_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    """Shared by tests that leave its keys alone."""
    with KeyedService(tmp_path_factory.mktemp("guarded")) as service:
        yield service


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A MODELS_DIR with a model for the fake engine."""
    return tmp_path
