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

from tests.service import ROOT, Service, eventually

GUNICORN = (
    "-m gunicorn --bind 127.0.0.1:{port} --workers 1 --worker-class gevent "
    "--worker-connections 1000 --timeout 300 --keep-alive 5 --max-requests 1000 "
    "--max-requests-jitter 100 --access-logfile - --error-logfile - src.api.app:application"
).split()

pytestmark = pytest.mark.usefixtures("model_here")


def workers_of(service: Service) -> list[int]:
    return [child.pid for child in psutil.Process(service.pid).children()]


@pytest.mark.parametrize(
    "command",
    [
        ["run.py", "--mode", "prod"],
        ["run.py", "--mode", "dev"],
        ["-m", "src.api.app"],
        GUNICORN,
        [str(Path(sys.executable).with_name("vllm-obtain")), "serve"],
    ],
    ids=["run-prod", "run-dev", "module", "gunicorn", "serve"],
)
def test_each_command_serves_a_chat_and_leaves_nothing_on_sigterm(
    command: list[str], tmp_path: Path
) -> None:
    with Service(command, tmp_path) as service:
        answer = service.chat()
        assert answer["choices"][0]["message"]["content"].strip()
        service.signal(signal.SIGTERM)
        service.wait_until_gone(5)


def test_four_workers_share_one_engine(tmp_path: Path) -> None:
    command = list(GUNICORN)
    command[command.index("--workers") + 1] = "4"
    with Service(command, tmp_path) as service:
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
    with Service(["run.py"], tmp_path) as service:
        stream = threading.Thread(
            target=_swallow, args=(service, {"stream": True, "max_tokens": 2000})
        )
        stream.start()
        eventually(lambda: service.engine()["in_flight"] == 1)
        service.signal(signal.SIGKILL)
        service.wait_until_gone(5)
        stream.join(10)


def test_kill_9_of_engine_supervisor_and_worker_are_survived(tmp_path: Path) -> None:
    with Service(["run.py"], tmp_path) as service:
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
    service = Service(["run.py"], tmp_path, {"WORKERS": "2"})
    service.runtime.mkdir(parents=True, mode=0o700, exist_ok=True)
    service.runtime.parent.chmod(0o700)
    left = [service.runtime / name for name in ("recycle", "drain-1")]
    for each in left:
        each.touch()
    with service:  # a worker that took itself for a successor would not say that it is ready
        assert len(workers_of(service)) == 2
        assert not any(each.exists() for each in left)


def test_recycling_cuts_nothing_and_never_leaves_the_port_unanswered(tmp_path: Path) -> None:
    command = list(GUNICORN)
    command[command.index("--max-requests") + 1] = "10"
    command[command.index("--max-requests-jitter") + 1] = "3"
    with Service(command, tmp_path) as service:
        engine = service.engine()["pid"]
        (first,) = workers_of(service)
        outcome: list[bytes] = []
        stream = threading.Thread(
            target=lambda: outcome.append(
                _swallow(service, {"stream": True, "max_tokens": 600, "temperature": 1.5})
            )
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
        assert service.engine()["pid"] == engine
        eventually(lambda: first not in workers_of(service), timeout=30)
        eventually(lambda: len(workers_of(service)) == 1, timeout=30)


def test_two_services_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Service(["run.py"], tmp_path / "a") as one, Service(["run.py"], tmp_path / "b") as two:
        assert one.status()["supervisor"]["pid"] != two.status()["supervisor"]["pid"]
        one.signal(signal.SIGTERM)
        one.wait_until_gone(5)
        assert two.chat()["usage"]["completion_tokens"] > 0


def test_dev_reloads_the_gateway_and_keeps_the_engine(tmp_path: Path) -> None:
    with Service(["run.py", "--mode", "dev"], tmp_path) as service:
        before = service.status()
        source = ROOT / "vllm_obtain" / "api" / "models.py"
        os.utime(source)
        eventually(lambda: _other_gateway(service, before), timeout=30, interval=0.2)
        after = service.status()
        assert after["supervisor"]["pid"] == before["supervisor"]["pid"]
        assert after["engines"][0]["pid"] == before["engines"][0]["pid"]
        assert service.chat()["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"PORT": "0"}, r"PORT='0' is not allowed"),
        ({"LOG_LEVEL": "loud"}, r"LOG_LEVEL='loud' is not allowed.*DEBUG"),
        ({"INFERENCE_ENGINE": "gpu"}, r"INFERENCE_ENGINE='gpu'.*Allowed: auto, mlx, vllm"),
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
def test_a_port_in_use_is_said(command: list[str], service: Service, tmp_path: Path) -> None:
    second = Service([part.format(port=service.port) for part in command], tmp_path)
    second._env["PORT"] = str(service.port)
    with pytest.raises(AssertionError, match="ended before"):
        second.start()
    output = "\n".join(second.lines)
    assert f"Cannot listen on 127.0.0.1:{service.port}" in output
    assert "Traceback" not in output
    assert service.request("/health")[0] == 200


def test_without_a_model_it_says_so_and_answers(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    env = {"MODELS_DIR": str(tmp_path / "none")}
    service = Service(["run.py", "--no-fetch"], tmp_path, env)
    try:
        service.start(until="holds no model")
        status, _, body = service.request("/v1/chat/completions", {"messages": [], "model": "x"})
        assert status == 400, body
        body_ = {"model": "x", "messages": [{"role": "user", "content": "hi"}]}
        status, _, body = service.request("/v1/chat/completions", body_)
        assert status == 404
        assert b"MODELS_DIR holds no model" in body
        assert service.request("/ready")[0] == 503
    finally:
        service.kill_everything()


def _other_gateway(service: Service, before: dict[str, dict[str, int]]) -> bool:
    try:
        return bool(service.status()["gateway"]["pid"] != before["gateway"]["pid"])
    except OSError:
        return False


def _swallow(service: Service, more: dict[str, object]) -> bytes:
    body = {"messages": [{"role": "user", "content": "Write a long story."}], **more}
    try:
        return service.request("/v1/chat/completions", body)[2]
    except (OSError, http.client.HTTPException) as error:
        return str(error).encode()
