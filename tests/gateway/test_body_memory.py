"""Large request bodies in flight: how much memory they may use, and for how long."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path

import pytest

from tests.access.helpers import CHAT, KeyedService
from tests.gateway.test_input import answer_of, head
from tests.waiting import eventually
from vllm_obtain.gateway.core.body_memory import BodyMemory

MIB = 1 << 20
ENV = {"MAX_BODY_MB": "4", "BODY_MEMORY_MB": "16", "BODY_TIMEOUT": "2"}


def test_a_caller_may_hold_as_much_as_is_free() -> None:
    memory = BodyMemory(100)
    assert memory.acquire("a", 50) and not memory.acquire("a", 1)
    assert memory.acquire("b", 25) and not memory.acquire("b", 1)
    assert memory.acquire("c", 12)
    memory.release("a", 50)
    assert memory.held == 37
    assert memory.acquire("b", 10) and memory.held == 47


def half_sent(service: KeyedService, token: str) -> socket.socket:
    """Open a request that stops before the end of its body."""
    line = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    line.sendall(head(f"Authorization: Bearer {token}", f"Content-Length: {4 * MIB}"))
    with contextlib.suppress(OSError):  # it may be refused before it was sent
        line.sendall(bytes(3 * MIB))
    return line


def send(service: KeyedService, token: str, body: bytes) -> tuple[int, str, dict[str, str], bool]:
    """Send a whole request."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as line:
        line.sendall(head(f"Authorization: Bearer {token}", f"Content-Length: {len(body)}"))
        with contextlib.suppress(OSError):
            line.sendall(body)
        return answer_of(line)


@pytest.mark.serial
def test_half_sent_bodies_of_one_key_leave_memory_for_another(tmp_path: Path) -> None:
    large = json.dumps({**CHAT, "user": "u" * 3 * MIB}).encode()
    with KeyedService(tmp_path, ENV) as service, contextlib.ExitStack() as stack:
        assert send(service, service.user, large)[0] == 200
        started = time.monotonic()
        lines = [stack.enter_context(half_sent(service, service.admin)) for _ in range(6)]
        status, code, headers, over = send(service, service.admin, large)
        assert (status, code, over) == (429, "overloaded", True) and int(headers["retry-after"])
        assert send(service, service.user, large)[0] == 200
        responses = [answer_of(line)[:2] for line in lines]
        assert responses.count((408, "body_timeout")) == 2
        assert responses.count((429, "overloaded")) == 4
        assert time.monotonic() - started < 10, "a client that stops has BODY_TIMEOUT left"
        eventually(lambda: send(service, service.admin, large)[0] == 200)
