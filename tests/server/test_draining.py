"""The end of a service: what runs is finished, what comes is sent away."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import ROOT, Service
from tests.waiting import eventually

pytestmark = pytest.mark.slow

WORDS = " ".join(f"w{number}" for number in range(15))
COMMAND = [str(Path(sys.executable).with_name("vllm-obtain"))]


class Stream(threading.Thread):
    """A stream that is read to its end."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._service = service
        self.received = b""
        self.start()
        eventually(lambda: b"w1" in self.received)

    def run(self) -> None:
        line = http.client.HTTPConnection("127.0.0.1", self._service.port)
        body = {"model": "a", "prompt": WORDS, "max_tokens": 50, "stream": True, "temperature": 1}
        line.request("POST", "/v1/completions", json.dumps(body))
        answer = line.getresponse()
        try:
            while piece := answer.read1():
                self.received += piece
        except (OSError, http.client.HTTPException) as error:
            self.received += f"({error})".encode()


@contextmanager
def run_service(folder: Path, grace: float, **switches: float) -> Iterator[Service]:
    models = folder / "models"
    models.mkdir()
    write_model(models, "a", **switches)
    env = {**ENVIRONMENT, "MODELS_DIR": str(models), "GRACE_PERIOD": str(grace)}
    with Service(["run.py", "--no-fetch"], folder, env) as service:
        yield service


def test_streams_are_finished_and_newcomers_sent_away(tmp_path: Path) -> None:
    with run_service(tmp_path, 30, pace=0.1) as service:
        stream = Stream(service)
        service.signal(signal.SIGTERM)
        eventually(lambda: service.request("/ready")[0] == 503)
        status, headers, body = service.request("/v1/models")
        assert (status, json.loads(body)["error"]["code"]) == (503, "draining")
        assert int(headers["retry-after"]) >= 1
        assert service.request("/health")[0] == 200
        stream.join(10)
        assert b"w14" in stream.received and stream.received.rstrip().endswith(b"data: [DONE]")
        service.wait_until_gone(5)


def test_what_runs_longer_than_the_grace_period_is_told_so(tmp_path: Path) -> None:
    with run_service(tmp_path, 1, hang_after_tokens=3) as service:
        stream = Stream(service)
        plain: list[tuple[int, dict[str, str], bytes]] = []
        body = {"model": "a", "prompt": WORDS, "temperature": 1}
        asking = threading.Thread(
            target=lambda: plain.append(service.request("/v1/completions", body)), daemon=True
        )
        asking.start()
        eventually(lambda: service.engine()["in_flight"] == 2)
        service.signal(signal.SIGTERM)
        stream.join(10)
        asking.join(10)
        last = stream.received.rstrip().rpartition(b"data: ")[2]
        assert json.loads(last)["error"]["code"] == "draining", stream.received
        status, headers, answer = plain[0]
        assert (status, json.loads(answer)["error"]["code"]) == (503, "draining")
        assert int(headers["retry-after"]) >= 1
        service.wait_until_gone(5)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait(second: signal.Signals, tmp_path: Path) -> None:
    with run_service(tmp_path, 60, hang_after_tokens=3) as service:
        Stream(service)
        service.signal(signal.SIGTERM)
        eventually(lambda: service.request("/ready")[0] == 503)
        service.signal(second)
        service.wait_until_gone(5)


def test_an_interrupt_ends_streams_with_an_error_and_prints_nothing_afterwards(
    tmp_path: Path,
) -> None:
    with run_service(tmp_path, 60, hang_after_tokens=3) as service:
        stream = Stream(service)
        # Ctrl-C in a terminal reaches the whole group at once.
        os.killpg(service.pid, signal.SIGINT)
        stream.join(10)
        last = stream.received.rstrip().rpartition(b"data: ")[2]
        assert json.loads(last)["error"]["code"] == "draining", stream.received
        assert service.process is not None
        assert service.process.wait(5) == 0
        service.wait_until_gone(5)
        # The supervisor ends after the service: the shell has printed its prompt by then.
        assert "[supervisor" not in "\n".join(service.lines[-3:])
        (*_, last_line) = service.logged("app.log")
        assert last_line["event"] == "supervisor stopped"


def test_a_third_signal_does_not_wait(tmp_path: Path) -> None:
    with run_service(tmp_path, 60, hang_after_tokens=3) as service:
        Stream(service)
        service.signal(signal.SIGTERM)
        for _ in range(2):
            service.signal(signal.SIGINT)
        service.wait_until_gone(5)


def _stop(service: Service, *more: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PORT": str(service.port), "GRACE_PERIOD": "1"}
    command = [*COMMAND, "stop", *more]
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_stops_what_runs_longer_than_the_grace_period(tmp_path: Path) -> None:
    with run_service(tmp_path, 1, hang_after_tokens=3) as service:
        Stream(service)
        began = time.monotonic()
        done = _stop(service)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Service stopped." in done.stdout and time.monotonic() - began > 1
        service.wait_until_gone(5)
        done = _stop(service)
        assert done.returncode == 1 and f"running on port {service.port}" in done.stdout
