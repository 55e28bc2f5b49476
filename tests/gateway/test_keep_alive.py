"""What a stream gets while it waits for its first token."""

from __future__ import annotations

import json
import socket
import sys
import time

import pytest

from tests.gateway.test_chat import text_of
from tests.profiles import PULSE, Fakes
from tests.service import Service
from tests.waiting import eventually

WAITING = b": waiting\n"


@pytest.fixture(scope="module")
def waiting(fakes: Fakes) -> Fakes:
    """Models that load, or read a prompt, until the file of their name is there."""
    reading = "hang_before_first_byte"
    fakes.add("slow", pace=0.5)
    fakes.add("silent", hang_after_tokens=0)
    fakes.add("loading", slow_start=fakes.folder / "loading")
    fakes.add("drawn", **{reading: fakes.folder / "drawn"})
    fakes.add("kept", **{reading: fakes.folder / "kept"})
    fakes.add("failing", **{reading: fakes.folder / "failing"}, error_after_tokens=0)
    return fakes


class Reader:
    """A streamed chat, line by line, on a connection that closes at its end."""

    def __init__(
        self, service: Service, model: str, temperature: float, origin: str = "127.0.0.1"
    ) -> None:
        talk = [{"role": "user", "content": "one two"}]
        body = {"model": model, "messages": talk, "stream": True, "temperature": temperature}
        data = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        address = ("127.0.0.1", service.port)
        self._line = socket.create_connection(address, timeout=30, source_address=(origin, 0))
        self._line.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        self._lines = self._line.makefile("rb")

    def until(self, *, wanted: bytes, times: int = 1) -> bytes:
        """Everything up to the line that came so many times."""
        seen = b""
        while times:
            line = self._lines.readline()
            assert line, seen
            seen += line
            times -= line == wanted
        return seen

    def leave(self) -> None:
        self._lines.close()
        self._line.close()

    def rest(self) -> bytes:
        """Everything up to the end."""
        rest = self._lines.read()
        self._line.close()
        return rest


@pytest.mark.parametrize(("model", "temperature"), [("loading", 1), ("drawn", 1), ("kept", 0)])
def test_a_stream_that_waits_is_kept_alive(
    model: str, temperature: float, waiting: Service
) -> None:
    reader = Reader(waiting, model, temperature)
    seen = reader.until(wanted=WAITING, times=3)
    assert seen.startswith(b"HTTP/1.1 200 OK\r\n")
    assert seen.count(b'"role":"assistant"') == 1
    (waiting.folder / model).touch()
    rest = reader.rest()
    assert b"[DONE]" in rest
    assert b'"role"' not in rest
    assert text_of(b"".join(seen.partition(b"data: ")[1:]) + rest).split() == ["one", "two"]


def test_what_fails_after_the_head_is_an_event(waiting: Service) -> None:
    reader = Reader(waiting, "failing", 1)
    reader.until(wanted=WAITING)
    (waiting.folder / "failing").touch()
    (event,) = [line for line in reader.rest().splitlines() if line.startswith(b"data: {")]
    assert "as the switch says" in json.loads(event[6:])["error"]["message"]


def test_a_plain_answer_has_no_comments(waiting: Service) -> None:
    body = {"model": "slow", "messages": [{"role": "user", "content": "one"}]}
    answer = waiting.json("/v1/chat/completions", body)
    assert answer["choices"][0]["message"]["content"] == "one "


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is no address there")
@pytest.mark.parametrize(("origin", "waits"), [("127.0.0.1", False), ("127.0.0.2", True)])
def test_a_proxy_gets_a_head_when_there_is_something_behind_it(
    origin: str, waits: bool, waiting: Service
) -> None:
    """As long as nothing was answered, a proxy can ask another instance."""

    def head() -> float:
        """Ask, and leave with the head; returns the seconds that it took."""
        began = time.monotonic()
        reader = Reader(waiting, "silent", 1, origin)
        reader.until(wanted=b"\r\n")
        reader.leave()
        return time.monotonic() - began

    # A proxy's comes with the first sign of life, after STREAM_PULSE. Any may be late.
    if waits:
        assert head() >= PULSE
    else:
        eventually(lambda: head() < PULSE)
