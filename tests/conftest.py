"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet import Fleet
from tests.service import ROOT, Service


@pytest.fixture(scope="session")
def model_here() -> None:
    """The embedded model; `make test` fetches it."""
    if not (ROOT / "models" / "smollm2-135m").is_dir():
        pytest.fail("models/ does not hold the embedded model: run `make model`")


@pytest.fixture(scope="session")
def service(model_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service in production mode with the real model, shared by tests that leave it alive."""
    with Service(["run.py", "--no-fetch"], tmp_path_factory.mktemp("service")) as made:
        yield made


@pytest.fixture(scope="session")
def fleet(model_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A service per engine, none of them started yet."""
    made = Fleet(tmp_path_factory.mktemp)
    yield made
    made.close()
