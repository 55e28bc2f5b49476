"""Three services on the fake engine, behind nginx and watched by Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.deploy.load import KEY
from tests.deploy.tools import Nginx, Prometheus, program
from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import Service


@dataclass
class Site:
    """What runs."""

    services: list[Service]
    nginx: Nginx
    prometheus: Prometheus


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    program("nginx", "nginx-light")
    program("prometheus", "prometheus")
    models = tmp_path_factory.mktemp("models")
    write_model(models, "a", pace=0.03)
    write_model(models, "broken", exit_at_start=3)
    env = {
        **ENVIRONMENT,
        "MODELS_DIR": str(models),
        "DEFAULT_MODEL": "a",
        "MAX_CONCURRENT_MODELS": "2",
        "API_KEYS": KEY,
        "TRUSTED_PROXIES": "127.0.0.1",
    }
    services = [
        Service(["run.py", "--no-fetch"], tmp_path_factory.mktemp(f"instance{number}"), env)
        for number in (1, 2, 3)
    ]
    ports = {8001 + index: service.port for index, service in enumerate(services)}
    with ExitStack() as stack:
        for service in services:
            stack.callback(service.kill_everything)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Service.start, services))
        nginx = stack.enter_context(Nginx(tmp_path_factory.mktemp("nginx"), ports).running())
        prometheus = Prometheus(tmp_path_factory.mktemp("prometheus") / "etc", ports, KEY)
        yield Site(services, nginx, stack.enter_context(prometheus.running()))
