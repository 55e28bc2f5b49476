"""Clients that ask for much and read little: they hold neither a place nor memory."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.access.test_tls import certificate
from tests.fake_engine import write_model
from tests.gateway.test_input import ImpatientService
from tests.waiting import eventually

pytestmark = pytest.mark.serial

SEND_TIMEOUT = 1
TOKENS = 200
WIDE = 100_000
MIB = 1 << 20


class LongTextService(ImpatientService):
    """A service with a model whose answers are large."""

    def __init__(self, folder: Path, **env: str) -> None:
        super().__init__(folder, SEND_TIMEOUT=str(SEND_TIMEOUT), **env)
        self.notes = folder / "notes"
        write_model(folder / "models", "wide", wide=WIDE, request_log=str(self.notes))

    def ask(self, tokens: int) -> socket.socket:
        """Ask for a stream, with little room for it."""
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        line.settimeout(20)
        line.connect(("127.0.0.1", self.port))
        if self.context is not None:
            line = self.context.wrap_socket(line, server_hostname="127.0.0.1")
        words = [{"role": "user", "content": "one " * tokens}]
        body = {"model": "wide", "messages": words, "max_tokens": tokens, "stream": True}
        data = json.dumps({**body, "temperature": 1}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        line.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return line

    def in_flight(self) -> int:
        return int(self.status()["requests_in_flight"])


@pytest.fixture(scope="module", params=["http", "https"])
def service_of_long_texts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LongTextService]:
    folder = tmp_path_factory.mktemp("patient")
    encryption = certificate(folder) if request.param == "https" else {}
    service = LongTextService(folder, **encryption)
    if encryption:
        service.context = ssl.create_default_context(cafile=encryption["TLS_CERTFILE"])
    with service:
        yield service


def test_one_that_reads_nothing_is_given_up(service_of_long_texts: LongTextService) -> None:
    before = service_of_long_texts.gateway().memory_info().rss
    with service_of_long_texts.ask(TOKENS) as line:
        assert line.recv(1)  # it has begun
        eventually(lambda: service_of_long_texts.in_flight() == 1)
        time.sleep(SEND_TIMEOUT / 2)
        assert service_of_long_texts.in_flight() == 1, "it is waited for"
        assert service_of_long_texts.gateway().memory_info().rss - before < 16 * MIB, (
            "of 20 MB to come"
        )
        eventually(lambda: service_of_long_texts.in_flight() == 0, timeout=SEND_TIMEOUT + 3)
    eventually(lambda: "cancelled" in service_of_long_texts.notes.read_text())
    assert any("slow client disconnected" in line for line in service_of_long_texts.lines)
    assert service_of_long_texts.chat("one two")["choices"][0]["message"]["content"].split() == [
        "one",
        "two",
    ]


def test_one_that_reads_slowly_gets_everything(service_of_long_texts: LongTextService) -> None:
    with service_of_long_texts.ask(40) as line:
        got = b""
        while b"[DONE]" not in got[-100:]:
            for _ in range(16):
                got += line.recv(65_536)
                if b"[DONE]" in got[-100:]:
                    break
            time.sleep(0.1)
    assert got.count(b" " * (WIDE - 10)) >= 40
    eventually(lambda: service_of_long_texts.in_flight() == 0)
