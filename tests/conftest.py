"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fleet import Fleet
from tests.profiles import IMPATIENT, Fakes
from tests.service import ROOT, Service


def pytest_configure() -> None:
    """Undo what shells do to commands in the background: their children would ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the marks that follow from a test's fixtures and folder."""
    for item in items:
        if "model_here" in getattr(item, "fixturenames", ()):
            item.add_marker("engine")
        if item.path.is_relative_to(ROOT / "tests" / "deploy"):
            item.add_marker("deploy")
    if "PYTEST_XDIST_WORKER" in os.environ:
        from tests.scheduler import longest_first

        longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Make the scheduler of `-n 2 --dist loadscope`."""
    from tests.scheduler import Scheduler

    return Scheduler(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(scope="session")
def model_here() -> None:
    """The embedded model; `make test` fetches it."""
    if not (ROOT / "models" / "smollm2-135m").is_dir():
        pytest.fail("models/ does not hold the embedded model: run `make model`")


@pytest.fixture(scope="session")
def service(model_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service in production mode with the real model, shared by tests that leave it alive."""
    with Service(["run.py", "--no-fetch"], tmp_path_factory.mktemp("service")) as server:
        yield server


@pytest.fixture(scope="session")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fakes]:
    """A service on the fake engine, for faults that a real one does not have on demand."""
    with Fakes(tmp_path_factory.mktemp("fakes")) as service:
        yield service


@pytest.fixture(scope="session")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fakes]:
    """The same, where requests have little time and few run at once."""
    few = {"REQUEST_TIMEOUT": str(IMPATIENT), "MAX_CONCURRENT_REQUESTS": "3"}
    with Fakes(tmp_path_factory.mktemp("impatient"), **few) as service:
        yield service


@pytest.fixture(scope="session")
def fleet(model_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A service per engine, none of them started yet."""
    service = Fleet(tmp_path_factory.mktemp)
    yield service
    service.close()
