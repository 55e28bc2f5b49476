"""Every way to start the service, as the README and the users' scripts spell it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.profiles import Fakes
from tests.service import ROOT, Service
from tests.waiting import eventually

pytestmark = pytest.mark.slow

GUNICORN = (
    "-m gunicorn --bind 127.0.0.1:{port} --workers 1 --worker-class gevent "
    "--worker-connections 1000 --timeout 300 --keep-alive 5 --max-requests 1000 "
    "--max-requests-jitter 100 --access-logfile - --error-logfile - src.api.app:application"
).split()
# Every way to start; `tests/test_docs.py` compares them with the documents.
COMMANDS = {
    "run-prod": ["run.py", "--mode", "prod"],
    "run-dev": ["run.py", "--mode", "dev"],
    "module": ["-m", "src.api.app"],
    "gunicorn": GUNICORN,
    "serve": [str(Path(sys.executable).with_name("vllm-obtain")), "serve"],
}


def workers_of(service: Service) -> list[int]:
    return [child.pid for child in psutil.Process(service.pid).children()]


def serves_and_ends(service: Service) -> None:
    assert service.chat()["choices"][0]["message"]["content"].strip()
    service.signal(signal.SIGTERM)
    service.wait_until_gone(5)


@pytest.mark.usefixtures("model_here")
def test_the_command_of_the_readme_serves_the_embedded_model(tmp_path: Path) -> None:
    with Service(COMMANDS["run-prod"], tmp_path) as service:
        serves_and_ends(service)


@pytest.mark.parametrize("name", ["module", "gunicorn", "serve"])
def test_each_command_serves_a_chat_and_leaves_nothing_on_sigterm(
    name: str, tmp_path: Path
) -> None:
    with Fakes(tmp_path, COMMANDS[name]) as service:
        serves_and_ends(service)


def test_dev_reloads_the_gateway_and_keeps_the_engine(tmp_path: Path) -> None:
    with Fakes(tmp_path, COMMANDS["run-dev"]) as service:
        before = service.status()
        source = ROOT / "vllm_obtain" / "gateway" / "admin" / "models.py"
        os.utime(source)
        eventually(lambda: _other_gateway(service, before), timeout=30, interval=0.2)
        after = service.status()
        assert after["supervisor"]["pid"] == before["supervisor"]["pid"]
        assert after["engines"][0]["pid"] == before["engines"][0]["pid"]
        serves_and_ends(service)


def test_four_workers_share_one_engine(tmp_path: Path) -> None:
    command = list(GUNICORN)
    command[command.index("--workers") + 1] = "4"
    with Fakes(tmp_path, command) as service:
        eventually(lambda: len(workers_of(service)) == 4)
        seen = set()
        engines = set()

        def look() -> bool:
            status = service.status()
            seen.add(status["gateway"]["pid"])
            engines.update(engine["pid"] for engine in status["engines"])
            return len(seen) == 4

        eventually(look, timeout=30)
        assert len(engines) == 1
        assert service.chat()["usage"]["completion_tokens"] > 0
        # Ctrl-C in a terminal reaches the whole group at once.
        os.killpg(service.pid, signal.SIGINT)
        service.wait_until_gone(5)
        assert "Traceback" not in "\n".join(service.lines)


def test_kill_9_of_the_gunicorn_master_leaves_nothing(tmp_path: Path) -> None:
    with Fakes(tmp_path) as service:
        service.add("hangs", hang_after_tokens=2)
        stream = threading.Thread(
            target=_swallow, args=(service, {"model": "hangs", "stream": True})
        )
        stream.start()
        eventually(lambda: [each["in_flight"] for each in service.status()["engines"]] == [0, 1])
        service.signal(signal.SIGKILL)
        service.wait_until_gone(5)
        stream.join(10)


def test_kill_9_of_engine_supervisor_and_worker_are_survived(tmp_path: Path) -> None:
    with Fakes(tmp_path) as service:
        engine = service.engine()["pid"]
        os.kill(engine, signal.SIGKILL)
        assert service.request("/health", timeout=1)[0] == 200
        assert service.chat()["usage"]["completion_tokens"] > 0
        assert service.engine()["pid"] != engine
        crashes = [line for line in service.logged("errors.log") if "crash" in line["event"]]
        assert len(crashes) == 1 and "SIGKILL" in crashes[0]["reason"]

        supervisor = service.status()["supervisor"]["pid"]
        os.kill(supervisor, signal.SIGKILL)
        assert service.request("/health", timeout=1)[0] == 200
        assert service.chat()["usage"]["completion_tokens"] > 0
        assert service.status()["supervisor"]["pid"] != supervisor

        engine = service.engine()["pid"]
        (worker,) = workers_of(service)
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: workers_of(service) not in ([], [worker]))
        assert service.chat()["usage"]["completion_tokens"] > 0
        assert service.engine()["pid"] == engine


def test_what_a_killed_service_marked_means_nothing_to_the_next(tmp_path: Path) -> None:
    service = Fakes(tmp_path, WORKERS="2")
    service.runtime.mkdir(parents=True, mode=0o700, exist_ok=True)
    service.runtime.parent.chmod(0o700)
    left = [service.runtime / name for name in ("recycle", "drain-1")]
    for each in left:
        each.touch()
    with service:  # a worker that took itself for a successor would not say that it is ready
        assert len(workers_of(service)) == 2
        assert not any(each.exists() for each in left)


@pytest.mark.serial
def test_recycling_cuts_nothing_and_never_leaves_the_port_unanswered(tmp_path: Path) -> None:
    command = list(GUNICORN)
    command[command.index("--max-requests") + 1] = "10"
    command[command.index("--max-requests-jitter") + 1] = "3"
    with Fakes(tmp_path, command) as service:
        service.add("long", pace=0.02)
        service.chat(model="long")
        engine = service.engine("long")["pid"]
        (first,) = workers_of(service)
        outcome: list[bytes] = []
        words = {"stream": True, "max_tokens": 200, "model": "long"}
        stream = threading.Thread(
            target=lambda: outcome.append(_swallow(service, words, "word " * 200))
        )
        stream.start()
        slowest = 0.0
        pids = set()
        end = time.monotonic() + 60
        while len(pids) < 3 and time.monotonic() < end:
            began = time.monotonic()
            pids.add(service.status()["gateway"]["pid"])
            slowest = max(slowest, time.monotonic() - began)
        assert len(pids) >= 3, service.lines[-20:]
        assert slowest < 2
        stream.join(60)
        assert outcome and outcome[0].rstrip().endswith(b"data: [DONE]")
        assert service.engine("long")["pid"] == engine
        eventually(lambda: first not in workers_of(service), timeout=30)
        eventually(lambda: len(workers_of(service)) == 1, timeout=30)


def test_two_services_side_by_side(fakes: Fakes, tmp_path: Path) -> None:
    with Fakes(tmp_path) as one:
        assert one.status()["supervisor"]["pid"] != fakes.status()["supervisor"]["pid"]
        one.signal(signal.SIGTERM)
        one.wait_until_gone(5)
    assert fakes.chat()["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"PORT": "0"}, r"PORT must be an integer between 1 and 65535, got '0'\."),
        ({"LOG_LEVEL": "loud"}, r"LOG_LEVEL must be DEBUG, .*, got 'loud'\."),
        ({"INFERENCE_ENGINE": "gpu"}, r"INFERENCE_ENGINE must be auto, mlx, .*, got 'gpu'\."),
        ({"DEVICE_TYPE": "mps"}, r"DEVICE_TYPE"),
        ({"LOG_DIR": "/proc/nowhere"}, r"LOG_DIR=/proc/nowhere"),
    ],
)
@pytest.mark.parametrize("command", [["run.py"], GUNICORN], ids=["run", "gunicorn"])
def test_what_cannot_start_says_why_in_one_sentence(
    env: dict[str, str], says: str, command: list[str], tmp_path: Path
) -> None:
    service = Service(command, tmp_path, env)
    with pytest.raises(AssertionError, match="ended before"):
        service.start()
    output = "\n".join(service.lines)
    assert re.search(says, output), output
    assert "Traceback" not in output
    service.wait_until_gone(5)


@pytest.mark.parametrize("command", [["run.py"], ["-m", "src.api.app"], GUNICORN])
def test_a_port_in_use_is_said(command: list[str], fakes: Fakes, tmp_path: Path) -> None:
    second = Fakes(tmp_path, [part.format(port=fakes.port) for part in command])
    second._env["PORT"] = str(fakes.port)
    with pytest.raises(AssertionError, match="ended before"):
        second.start()
    output = "\n".join(second.lines)
    assert f"Cannot listen on 127.0.0.1:{fakes.port}" in output
    assert "Traceback" not in output
    assert fakes.request("/health")[0] == 200


def test_without_a_model_it_says_so_and_answers(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    env = {"MODELS_DIR": str(tmp_path / "none")}
    service = Service(["run.py", "--no-fetch"], tmp_path, env)
    try:
        service.start(until="has no model")
        status, _, body = service.request("/v1/chat/completions", {"messages": [], "model": "x"})
        assert status == 400, body
        body_ = {"model": "x", "messages": [{"role": "user", "content": "hi"}]}
        status, _, body = service.request("/v1/chat/completions", body_)
        assert status == 404
        assert b"MODELS_DIR has no models" in body
        assert service.request("/ready")[0] == 503
    finally:
        service.kill_everything()


def _other_gateway(service: Service, before: dict[str, dict[str, int]]) -> bool:
    try:
        return bool(service.status()["gateway"]["pid"] != before["gateway"]["pid"])
    except OSError:
        return False


def _swallow(service: Service, more: dict[str, object], text: str = "Write a long story.") -> bytes:
    body = {"messages": [{"role": "user", "content": text}], **more}
    try:
        return service.request("/v1/chat/completions", body)[2]
    except (OSError, http.client.HTTPException) as error:
        return str(error).encode()
