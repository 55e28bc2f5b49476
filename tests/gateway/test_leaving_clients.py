"""Clients that disconnect at any moment of a request harm no other request."""

from __future__ import annotations

import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time

from tests.profiles import Fakes
from tests.service import ROOT
from tests.waiting import eventually

# `make test-long` sets LONG.
REQUESTS = 20_000 if os.environ.get("LONG") else 1_500
CLIENTS = 16
# Shares of a request's usual duration after which clients leave.
EARLIEST, LATEST = 0.5, 1.1


def test_other_requests_complete(fakes: Fakes) -> None:
    model = fakes.add("left-alone", slots=CLIENTS)
    errors = fakes.folder / "logs" / "errors.log"
    before = errors.stat().st_size if errors.exists() else 0
    failures: list[object] = []
    numbers = iter(range(REQUESTS))
    lock = threading.Lock()
    duration = 0.02

    def use(seed: int) -> None:
        nonlocal duration
        chance = random.Random(seed)  # noqa: S311 - the same clients leave in each run
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            body = {
                "model": model,
                "messages": [{"role": "user", "content": f"word {number}"}],
                "max_tokens": 8,
                "stream": chance.random() < 0.5,
            }
            connection = http.client.HTTPConnection("127.0.0.1", fakes.port, timeout=30)
            start = time.monotonic()
            try:
                connection.request("POST", "/v1/chat/completions", json.dumps(body))
                if chance.random() < 0.6:
                    time.sleep(chance.uniform(EARLIEST, LATEST) * duration)
                    continue
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                failures.append(error)
                continue
            finally:
                connection.close()
            duration = 0.9 * duration + 0.1 * (time.monotonic() - start)
            if response.status != 200 or b'"error"' in text:
                failures.append((response.status, text))

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]
    eventually(lambda: fakes.json("/v1/system/status")["requests_in_flight"] == 0)
    with errors.open() as file:
        file.seek(before)
        assert "unexpected error" not in file.read()


def test_a_closed_socket_counts_as_closed_under_gevent() -> None:
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import socket\n"
        "from vllm_obtain.gevent_compat import peer_closed\n"
        "here, there = socket.socketpair()\n"
        "assert peer_closed(here) is False\n"
        "here.close()\n"
        "assert peer_closed(here) is True\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
