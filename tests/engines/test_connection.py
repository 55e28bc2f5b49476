"""The connection to an engine, against a real one that can fail in every way."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import Start
from tests.waiting import eventually
from vllm_obtain.engines.connection import EngineConnection, EngineConnectionLost
from vllm_obtain.errors import EngineFailed, InvalidRequest, RequestTimeout, ServiceError
from vllm_obtain.protocol.events import Event, Finish, PromptProgress, TextDelta, Usage

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def chat(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "one two three four"}]
    return {"messages": messages, "max_tokens": 3, **more}


def ask(path: Path, url: str = CHAT, timeout: float = 10, **body: Any) -> list[Event]:
    """The events of one request."""
    exchange = EngineConnection(str(path), time.monotonic() + timeout)
    with contextlib.closing(exchange):
        asked = chat(**body) if url == CHAT else {"prompt": "one two", "max_tokens": 3, **body}
        return [event for events in exchange.events(url, asked) for event in events]


def test_a_chat(fake_engine: Start) -> None:
    assert ask(fake_engine().socket) == [
        PromptProgress(4, 4),
        TextDelta("one "),
        TextDelta("two "),
        TextDelta("three "),
        Finish("length"),
        Usage(4, 3),
    ]


def test_a_text(fake_engine: Start) -> None:
    engine = fake_engine()
    events = ask(engine.socket, TEXT, max_tokens=-1)
    assert events == [
        PromptProgress(2, 2),
        TextDelta("one "),
        TextDelta("two "),
        Finish("stop"),
        Usage(2, 2),
    ]
    eventually(lambda: engine.requests == ["arrived", "done 2"])


@pytest.mark.parametrize(
    ("switches", "error", "before"),
    [
        ({"error": {"code": 400}, "error_status": 400}, InvalidRequest, 0),
        ({"error": {"code": 500}}, EngineFailed, 0),
        ({"error_after_tokens": 2}, EngineFailed, 2),
        ({"garbage_chunk": True}, EngineFailed, 0),
        ({"crash_before_first_byte": True}, EngineConnectionLost, 0),
        ({"crash_after_tokens": 2}, EngineConnectionLost, 2),
    ],
)
def test_failures(
    fake_engine: Start, switches: dict[str, Any], error: type[ServiceError], before: int
) -> None:
    engine = fake_engine(**switches)
    exchange = EngineConnection(str(engine.socket), time.monotonic() + 10)
    requests: list[Event] = []
    with contextlib.closing(exchange), pytest.raises(ServiceError) as caught:
        for events in exchange.events(CHAT, chat()):
            requests += events
    assert type(caught.value) is error
    assert sum(isinstance(event, TextDelta) for event in requests) == before


def test_no_engine_there(socket_folder: Path) -> None:
    with pytest.raises(EngineConnectionLost):
        ask(socket_folder / "none.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_folder / "dead.sock"))
    with pytest.raises(EngineConnectionLost):
        ask(socket_folder / "dead.sock")


HANGS: list[dict[str, Any]] = [{"hang_before_first_byte": "/no/file"}, {"hang_after_tokens": 2}]


@pytest.mark.parametrize("switches", HANGS)
def test_the_deadline(fake_engine: Start, switches: dict[str, Any]) -> None:
    engine = fake_engine(**switches)
    with pytest.raises(RequestTimeout, match="REQUEST_TIMEOUT"):
        ask(engine.socket, timeout=0.2)
    eventually(lambda: "cancelled" in " ".join(engine.requests))
    with pytest.raises(RequestTimeout):
        ask(engine.socket, timeout=0)


@pytest.mark.parametrize(("switches", "tokens"), [(HANGS[0], 0), (HANGS[1], 2)])
def test_closing_frees_the_engine(
    fake_engine: Start, switches: dict[str, Any], tokens: int
) -> None:
    engine = fake_engine(**switches)
    exchange = EngineConnection(str(engine.socket), time.monotonic() + 10)
    ends: list[ServiceError] = []

    def read() -> None:
        try:
            for _ in exchange.events(CHAT, chat()):
                pass
        except ServiceError as error:
            ends.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    eventually(lambda: engine.requests == ["arrived"])
    exchange.interrupt()
    reading.join(5)
    exchange.close()
    assert [type(end) for end in ends] == [EngineConnectionLost]
    eventually(lambda: engine.requests[-1] == f"cancelled {tokens}")


def test_requests_run_together(fake_engine: Start) -> None:
    engine = fake_engine(barrier=4)
    with ThreadPoolExecutor(4) as threads:
        ends = list(threads.map(lambda _: ask(engine.socket)[-1], range(4)))
    assert ends == [Usage(4, 3)] * 4


def test_an_engine_too_busy_to_accept_is_waited_for(socket_folder: Path) -> None:
    with (
        serve_bytes(socket_folder, CHUNKED, backlog=0, after=0.3) as path,
        ThreadPoolExecutor(6) as threads,
    ):
        answers = list(threads.map(lambda _: ask(path), range(6)))
    assert answers == [[TextDelta("ä€")]] * 6
    with (
        serve_bytes(socket_folder, b"", backlog=0, after=0.5) as path,
        ThreadPoolExecutor(6) as threads,
    ):
        errors = list(threads.map(lambda _: failure(path, 0.1), range(6)))
    assert errors == [RequestTimeout] * 6


BODY = b'data: {"choices":[{"delta":{"content":"\xc3\xa4\xe2\x82\xac"}}]}\n\ndata: [DONE]\n\n'
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"0\r\n\r\n",
        CHUNKED,
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n: hello\r\n\r\n" + BODY,
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_answers_however_they_are_cut(socket_folder: Path, answer: bytes, size: int) -> None:
    with serve_bytes(socket_folder, answer, size=size) as path:
        assert ask(path) == [TextDelta("ä€")]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nbusy", EngineFailed),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", EngineFailed),
        (b"HTTP/1.1 400 No\r\nContent-Length: 4\r\n\r\nbu", EngineConnectionLost),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ndata", EngineConnectionLost),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\ndata: {}\n\n\n\n", EngineConnectionLost),
        (b"HTTP/1.1 200", EngineConnectionLost),
        (b"SSH-2.0-OpenSSH\r\n", EngineConnectionLost),
        (b"", EngineConnectionLost),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_broken_answers(
    socket_folder: Path, answer: bytes, error: type[ServiceError], size: int
) -> None:
    with serve_bytes(socket_folder, answer, size=size) as path:
        assert failure(path) is error


def test_an_error_that_comes_slower_than_the_pulse_is_read_to_its_end(socket_folder: Path) -> None:
    answer = b'HTTP/1.1 400 No\r\nContent-Length: 31\r\n\r\n{"error":{"message":"no such"}}'
    with serve_bytes(socket_folder, answer, size=50, pause=0.2) as path:
        exchange = EngineConnection(str(path), time.monotonic() + 10, keep_alive=0.05)
        with contextlib.closing(exchange), pytest.raises(InvalidRequest, match="no such"):
            list(exchange.events(CHAT, chat()))


def failure(path: Path, timeout: float = 10) -> type[ServiceError]:
    """What asking comes to."""
    with pytest.raises(ServiceError) as caught:
        ask(path, timeout=timeout)
    return type(caught.value)


@contextlib.contextmanager
def serve_bytes(
    folder: Path,
    answer: bytes,
    size: int = 1000,
    backlog: int = 9,
    after: float = 0,
    pause: float = 0,
) -> Iterator[Path]:
    """A server that gives everybody the same bytes, so many at a time, and hangs up."""
    path = folder / f"{time.monotonic_ns()}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        serving = (listener, answer, size, after, pause)
        threading.Thread(target=_serve, args=serving, daemon=True).start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, answer: bytes, size: int, after: float, pause: float) -> None:
    threading.Event().wait(after)
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                for start in range(0, len(answer), size):
                    client.sendall(answer[start : start + size])
                    threading.Event().wait(pause)
