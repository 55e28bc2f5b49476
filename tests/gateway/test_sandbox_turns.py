"""Slow grammars of one API key do not delay other keys, and end with their clients."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.gateway.test_template_limits import sandboxes
from tests.service import Service
from tests.waiting import eventually

# A minute to convert, so it always takes the sandbox's second of CPU time.
SLOW = {"guided_grammar": 'root ::= "a"\n' + "\n \n" * 15_000}
BODY = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
KEYS = {"slow": "sk-slow-0123456789abcdef", "quick": "sk-quick-0123456789abcdef"}


@pytest.fixture(scope="module")
def service_with_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("turns")
    (folder / "models").mkdir()
    write_model(folder / "models", "fine")
    env = {"MODELS_DIR": str(folder / "models"), "API_KEYS": ",".join(KEYS.values())}
    with Service(["run.py", "--no-fetch"], folder, {**ENVIRONMENT, **env, "WORKERS": "1"}) as it:
        yield it


def chat(service: Service, key: str, **more: object) -> tuple[int, float]:
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {KEYS[key]}"}
    status, _, body = service.request("/v1/chat/completions", {**BODY, **more}, headers)
    if status != 200:
        assert "too long" in json.loads(body)["error"]["message"]
    return status, time.monotonic() - began


def sandbox_seconds(service: Service) -> float:
    """CPU time of the processes of the sandbox."""
    total = 0.0
    for process in sandboxes(service):
        with contextlib.suppress(psutil.Error):
            total += process.cpu_times().user
    return total


@pytest.mark.serial
def test_another_key_does_not_wait_for_slow_grammars(service_with_keys: Service) -> None:
    chat(service_with_keys, "quick", guided_choice=["warm"])
    with ThreadPoolExecutor(12) as pool:
        slow = [pool.submit(chat, service_with_keys, "slow", **SLOW) for _ in range(12)]
        times, number = [], 0
        while sum(each.done() for each in slow) < 6:
            status, seconds = chat(service_with_keys, "quick", guided_choice=[f"{number}"])
            assert status == 200
            times.append(seconds)
            number += 1
        assert all(each.result()[0] == 400 for each in slow)
    assert max(times) < 2, sorted(times)[-5:]


def test_grammars_of_clients_that_left_are_not_compiled(service_with_keys: Service) -> None:
    body = json.dumps({**BODY, **SLOW}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {KEYS['slow']}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    clients, before = [], sandbox_seconds(service_with_keys)
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", service_with_keys.port))
        client.sendall(head + body)
        clients.append(client)
    # Two of them have a process, the others wait.
    eventually(lambda: sandbox_seconds(service_with_keys) > before + 0.2)
    for client in clients:
        client.close()
    # 20 grammars would take ten seconds.
    status, seconds = chat(service_with_keys, "slow", guided_choice=["mine"])
    assert status == 200 and seconds < 5
