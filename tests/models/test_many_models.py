"""A folder with thousands of models: the list is fast, and other requests are not delayed."""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path

import pytest

from tests.fake_engine import ENVIRONMENT
from tests.models.gguf_files import write_gguf
from tests.service import Service

pytestmark = [pytest.mark.serial, pytest.mark.slow]

COUNT = 5000


def test_a_list_of_5000_models_delays_nobody(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    first = write_gguf(models / "m0.gguf")
    for number in range(1, COUNT):
        os.link(first, models / f"m{number}.gguf")
    env = {**ENVIRONMENT, "MODELS_DIR": str(models), "DEFAULT_MODEL": "m0"}
    with Service(["run.py", "--no-fetch"], tmp_path, env) as service:
        delays: list[float] = []
        over = threading.Event()

        def probe() -> None:
            while not over.is_set():
                began = time.monotonic()
                service.request("/health")
                delays.append(time.monotonic() - began)

        prober = threading.Thread(target=probe)
        prober.start()
        seconds = []
        try:
            for _ in range(6):
                began = time.monotonic()
                assert len(service.json("/v1/models")["data"]) == COUNT
                seconds.append(time.monotonic() - began)
        finally:
            over.set()
            prober.join()
        assert service.chat(model="m4999")["usage"]["completion_tokens"] > 0
    print(f"first list {seconds[0]:.2f} s, later {statistics.median(seconds[1:]):.2f} s")
    print(f"/health while listing: worst of {len(delays)}: {max(delays) * 1000:.0f} ms")
    assert statistics.median(seconds[1:]) < 1
    assert max(delays) < 0.25
