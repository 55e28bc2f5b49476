"""What a stream gets while it waits for its first token."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from tests.api.test_chat import text_of
from tests.catalogue.gguf_files import write_gguf
from tests.service import Service

WAITING = b": waiting\n"
PULSE = "0.2"


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Models that load, or read a prompt, until the file of their name is there."""
    folder = tmp_path_factory.mktemp("waiting")
    models = folder / "models"
    models.mkdir()
    reading = "hang_before_first_byte"
    for name, switch in (
        ("fine", {}),
        ("slow", {"pace": 0.5}),
        ("slower", {"pace": 1.0}),
        ("loading", {"slow_start": str(folder / "loading")}),
        ("drawn", {reading: str(folder / "drawn")}),
        ("kept", {reading: str(folder / "kept")}),
        ("failing", {reading: str(folder / "failing"), "error_after_tokens": 0}),
    ):
        write_gguf(models / f"{name}.gguf")
        (models / f"{name}.gguf.json").write_text(json.dumps(switch))
    env = {
        "MODELS_DIR": str(models),
        "DEFAULT_MODEL": "fine",
        "INFERENCE_ENGINE": "fake",
        "EXTRA_ENGINES": "fake=tests.fake_engine:FakeAdapter",
        "STREAM_PULSE": PULSE,
        "TRUSTED_PROXIES": "127.0.0.2",
        "MAX_CONCURRENT_MODELS": "9",
        "REQUEST_TIMEOUT": "30",
    }
    with Service(["run.py", "--no-fetch"], folder, env) as made:
        yield made


class Reader:
    """A streamed chat, line by line, on a connection that closes at its end."""

    def __init__(
        self, service: Service, model: str, temperature: float, origin: str = "127.0.0.1"
    ) -> None:
        talk = [{"role": "user", "content": "one two"}]
        body = {"model": model, "messages": talk, "stream": True, "temperature": temperature}
        data = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
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
    began = time.monotonic()
    reader = Reader(waiting, "slower", 1, origin)
    reader.until(wanted=b"\r\n")
    # STREAM_PULSE later is its first sign of life.
    assert (time.monotonic() - began >= float(PULSE)) is waits
    assert b"[DONE]" in reader.rest()
