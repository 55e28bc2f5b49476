"""Clients that send too much, too slowly, or what is hard to read. The service goes on serving."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.access.helpers import CHAT, HI
from tests.access.test_tls import certificate
from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import Service
from tests.waiting import eventually

PATH = "/v1/chat/completions"
SLOW = 500
MIB = 1 << 20


class ImpatientService(Service):
    """A service on the fake engine with short patience."""

    def __init__(self, folder: Path, **env: str) -> None:
        models = folder / "models"
        models.mkdir()
        write_model(models, "fine")
        env = {"HEADER_TIMEOUT": "3", "BODY_TIMEOUT": "1", "MAX_BODY_MB": "8", **env}
        variables = {**ENVIRONMENT, "MODELS_DIR": str(models), "DEFAULT_MODEL": "fine", **env}
        super().__init__(["run.py", "--no-fetch"], folder, variables)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def gateway(self) -> psutil.Process:
        """The worker that answers."""
        (worker,) = psutil.Process(self.pid).children()
        return worker


@pytest.fixture(scope="module")
def impatient_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImpatientService]:
    with ImpatientService(tmp_path_factory.mktemp("bounded")) as service:
        yield service


def head(*more: str, path: str = PATH) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer_of(line: socket.socket) -> tuple[int, str, dict[str, str], bool]:
    """Status, error code, headers, and whether the connection is over."""
    response = http.client.HTTPResponse(line, method="POST")
    response.begin()
    body = json.loads(response.read())
    headers = {name.lower(): value for name, value in response.getheaders()}
    return response.status, body.get("error", {}).get("code", ""), headers, response.will_close


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_a_body_in_chunks_is_refused_where_it_becomes_too_large(
    impatient_service: ImpatientService,
) -> None:
    before = impatient_service.gateway().memory_info().rss
    with impatient_service.connect() as line:
        line.sendall(head("Transfer-Encoding: chunked"))
        # It never says how much there is, and never ends.
        with contextlib.suppress(OSError):
            for _ in range(40):
                line.sendall(chunk(bytes(MIB)))
        status, code, _, over = answer_of(line)
    assert (status, code, over) == (413, "request_too_large", True)
    assert impatient_service.gateway().memory_info().rss - before < 64 * MIB


def test_a_body_that_is_refused_is_not_worked_on(impatient_service: ImpatientService) -> None:
    data = bytes(64 * MIB)
    before = impatient_service.gateway().cpu_times()
    with impatient_service.connect() as line:
        line.sendall(head(f"Content-Length: {len(data)}"))
        # Sent to its end, as most clients do before they look at the answer.
        line.sendall(data)
        assert answer_of(line)[:2] == (413, "request_too_large")
        assert line.recv(1) == b""
    after = impatient_service.gateway().cpu_times()
    assert after.user + after.system - before.user - before.system < 1


def test_a_body_for_nobody_ends_the_connection_too(impatient_service: ImpatientService) -> None:
    with impatient_service.connect() as line:
        line.sendall(head(f"Content-Length: {20 * MIB}", path="/no/such/route"))
        status, _, headers, over = answer_of(line)
        assert (status, over, headers["connection"]) == (404, True, "close")
    with impatient_service.connect() as line:
        # A small one is let in, and the connection stays.
        line.sendall(head("Content-Length: 2", path="/no/such/route") + b"{}")
        assert answer_of(line)[3] is False
        line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer_of(line)[0] == 200


@pytest.mark.parametrize(
    "rest",
    [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"-2\r\n{}\r\n0\r\n\r\n",
        b"\r\n{}\r\n",
        b"2;\x00\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}XX0\r\n\r\n",
        b"2\r\n{}\r\n0\r\nno header\r\n\r\n",
        b"2\n{}\n0\n\n",
        b"f" * 20_000,
    ],
)
def test_broken_chunks_are_the_clients_error(
    impatient_service: ImpatientService, rest: bytes
) -> None:
    with impatient_service.connect() as line:
        line.sendall(head("Transfer-Encoding: chunked") + rest)
        with contextlib.suppress(OSError):  # it may have closed the connection already
            line.shutdown(socket.SHUT_WR)
        status, code, _, over = answer_of(line)
        assert (status, code, over) == (400, "invalid_value", True)


@pytest.mark.serial
def test_a_body_that_stops_coming_is_given_up(impatient_service: ImpatientService) -> None:
    for more in ("Content-Length: 1000", "Transfer-Encoding: chunked"):
        with impatient_service.connect() as line:
            began = time.monotonic()
            line.sendall(head(more) + (b'{"messages' if "Length" in more else b"a\r\n{"))
            status, code, headers, over = answer_of(line)
            assert (status, code, over) == (408, "body_timeout", True)
            assert 0.9 < time.monotonic() - began < 3
            assert headers["x-request-id"]


@pytest.mark.serial
def test_a_body_that_comes_steadily_may_take_longer(impatient_service: ImpatientService) -> None:
    body = json.dumps({**CHAT, "user": "u" * 200_000}).encode()
    with impatient_service.connect() as line:
        line.sendall(head(f"Content-Length: {len(body)}"))
        for start in range(0, len(body), 20_000):
            line.sendall(body[start : start + 20_000])
            time.sleep(0.2)  # 100 kB a second: 2 seconds in all, and BODY_TIMEOUT is 1
        assert answer_of(line)[0] == 200


def test_a_length_that_is_a_lie_harms_nobody(impatient_service: ImpatientService) -> None:
    body = json.dumps(CHAT).encode()
    with impatient_service.connect() as line:
        # It breaks off.
        line.sendall(head(f"Content-Length: {len(body) + 10}") + body)
        line.shutdown(socket.SHUT_WR)
        status, code, _, _ = answer_of(line)
        assert (status, code) == (400, "invalid_value")
    with impatient_service.connect() as line:
        # What is behind it is the next request, and no good one.
        line.sendall(head(f"Content-Length: {len(body)}") + body + b"more" * 10_000)
        assert answer_of(line)[0] == 200
    for lie in ("-1", "1e3", "99999999999999999999", "5, 6", "0x10"):
        with impatient_service.connect() as line:
            line.sendall(head(f"Content-Length: {lie}") + body)
            line.settimeout(10)
            assert line.recv(12).decode().endswith(("400", "413"))
    with impatient_service.connect() as line:
        both = head("Transfer-Encoding: chunked", f"Content-Length: {len(body)}")
        line.sendall(both + body)
        assert line.recv(12).endswith(b"400")
    assert impatient_service.request("/health")[0] == 200


@contextlib.contextmanager
def slow_clients(
    service: ImpatientService, start: bytes, count: int = SLOW
) -> Iterator[list[socket.socket]]:
    lines = []
    try:
        for _ in range(count):
            line = service.connect()
            line.sendall(start)
            lines.append(line)
        yield lines
    finally:
        for line in lines:
            line.close()


def test_connections_that_say_nothing_make_room_for_those_that_do(tmp_path: Path) -> None:
    with (
        ImpatientService(tmp_path, WORKER_CONNECTIONS="64", HEADER_TIMEOUT="600") as service,
        slow_clients(service, b"GET /health HTTP/1.1\r\nX-Slow: ", 200) as lines,
    ):
        for _ in range(5):
            assert service.request(PATH, CHAT, timeout=5)[0] == 200
        # The one that waited longest had to go.
        assert lines[0].recv(1) == b""


def test_handshakes_have_a_time(tmp_path: Path) -> None:
    env = {"HEADER_TIMEOUT": "1", "WORKER_CONNECTIONS": "64", **certificate(tmp_path)}
    with ImpatientService(tmp_path, **env) as service:
        service.context = ssl.create_default_context(cafile=env["TLS_CERTFILE"])
        with slow_clients(service, b"\x16\x03\x01", 100) as lines:
            assert service.request(PATH, CHAT, timeout=5)[0] == 200
            lines[-1].settimeout(5)
            assert lines[-1].recv(1) == b""


BOMBS: list[tuple[Callable[[], bytes], set[int]]] = [
    (lambda: b"[" * 8_000_000, {400}),
    (lambda: b'{"messages":' + b'{"a":' * 1_000_000, {400}),
    (
        lambda: (
            b'{"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":'
            + b'{"not":' * 900
            + b"{}"
            + b"}" * 900
            + b"}},"
            + body_of()
        ),
        {400},
    ),
    (lambda: b'{"metadata":{"a":' + b"9" * 4_000_000 + b"}," + body_of(), {400}),
    (lambda: b'{"temperature":1e999999,' + body_of(), {400}),
    (lambda: b'{"temperature":0.' + b"1" * 4_000_000 + b"," + body_of(), {200, 400}),
    (lambda: b'{"seed":' + b"1" * 5000 + b"," + body_of(), {400}),
    (lambda: b'{"guided_json":{"minimum":' + b"1" * 5000 + b"}," + body_of(), {400}),
    (lambda: b'{"user":"' + b"\\u0041" * 1_200_000 + b'",' + body_of(), {200, 400}),
    (lambda: b'{"messages":[' + b'{"role":"user","content":""},' * 200_000 + b"{}]}", {400}),
    (lambda: b'{"guided_regex":"' + b"a/" * 4_000_000 + b'",' + body_of(), {400}),
    (lambda: b'{"guided_choice":[' + b'"a",' * 1_900_000 + b'"b"],' + body_of(), {400}),
    (lambda: b'{"stop":[' + b'"",' * 2_000_000 + b'""],' + body_of(), {400}),
    (lambda: b'{"tools":[' + b"{}," * 2_000_000 + b"{}]," + body_of(), {400}),
    (
        lambda: (
            b'{"logit_bias":{'
            + b",".join(b'"%d":1' % n for n in range(600_000))
            + b"},"
            + body_of()
        ),
        {200, 400},
    ),
    (lambda: b"{" + b",".join(b'"f%d":1' % n for n in range(500_000)) + b"," + body_of(), {400}),
    (
        lambda: (
            b'{"tools":[{"type":"function","function":{"name":"f","parameters":{'
            + b",".join(b'"k%d":"v"' % n for n in range(400_000))
            + b"}}}],"
            + body_of()
        ),
        {400},
    ),
]


def body_of() -> bytes:
    """The rest of a request, to be put behind a field."""
    return json.dumps(CHAT).encode()[1:]


@pytest.mark.parametrize(("bomb", "statuses"), BOMBS, ids=range(len(BOMBS)))
@pytest.mark.serial
def test_json_that_is_made_to_hurt(
    bomb: Callable[[], bytes], statuses: set[int], impatient_service: ImpatientService
) -> None:
    with watched_health(impatient_service) as seconds:
        began = time.monotonic()
        status, _, answer = impatient_service.request(PATH, bomb())
        took = time.monotonic() - began
    assert status in statuses, answer
    assert took < 3
    assert max(seconds) < 0.5


@contextlib.contextmanager
def watched_health(service: Service) -> Iterator[list[float]]:
    """Ask for /health all the time; how long each took."""
    seconds: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            began = time.monotonic()
            assert service.request("/health", timeout=30)[0] == 200
            seconds.append(time.monotonic() - began)
            over.wait(0.02)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield seconds
        finally:
            over.set()
        looking.result(30)


@pytest.mark.serial
def test_slow_clients_a_large_body_and_a_huge_schema_at_once(
    impatient_service: ImpatientService,
) -> None:
    schema = {"enum": [f"value{number}" for number in range(20_000)]}
    form = {"type": "json_schema", "json_schema": {"name": "e", "schema": schema}}
    with (
        slow_clients(impatient_service, b"POST /v1/chat/completions HTTP/1.1\r\nX-Slow: a"),
        concurrent.futures.ThreadPoolExecutor(8) as pool,
        watched_health(impatient_service) as seconds,
    ):
        large = pool.submit(impatient_service.request, PATH, bytes(64 * MIB))
        began = time.monotonic()
        forms = [
            pool.submit(
                impatient_service.request, PATH, {**CHAT, "seed": n, "response_format": form}
            )
            for n in range(3)
        ]
        normal = [impatient_service.request(PATH, {**CHAT, "seed": n})[0] for n in range(20)]
        each = (time.monotonic() - began) / len(normal)
        assert [one.result(10)[0] for one in forms] == [200] * 3
        assert time.monotonic() - began < 5
        assert large.result(20)[0] == 413
        eventually(lambda: len(seconds) >= 40)
    assert normal == [200] * 20 and each < 0.5
    assert sorted(seconds)[int(len(seconds) * 0.95)] < 0.1, seconds


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (PATH, {"messages": [{"role": "user", "content": "x" * 7_000_000}]}, "messages"),
        (PATH, {"messages": [{"role": "user", "content": ""}] * 20_000}, "messages"),
        ("/v1/completions", {"prompt": "x" * 7_000_000}, "prompt"),
        ("/v1/completions", {"prompt": [5] * 1_000_000}, "prompt"),
    ],
    ids=["text", "messages", "prompt", "tokens"],
)
@pytest.mark.serial
def test_a_hopeless_prompt_never_reaches_the_engine(
    path: str, body: dict[str, Any], param: str, service: Service
) -> None:
    with watched_health(service) as seconds:
        began = time.monotonic()
        status, _, answer = service.request(path, body)
        took = time.monotonic() - began
    error = json.loads(answer)["error"]
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", param)
    assert took < 2 and max(seconds) < 1


def test_a_text_is_made_tokens_of_in_pieces(service: Service) -> None:
    status, _, answer = service.request("/tokenize", {"prompt": "x" * 9_000_000})
    assert (status, json.loads(answer)["error"]["param"]) == (400, "prompt")


NAMES = ["../fine", "/etc/passwd", "fine\0", "models/../fine", "..", "fine.gguf", "%2e%2e/fine"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_a_model_is_never_a_path(name: str, impatient_service: ImpatientService) -> None:
    body: dict[str, Any] = {"messages": HI, "prompt": "x", "input": "x"}
    for path, field, fields in (
        (PATH, "model", ["messages"]),
        ("/v1/completions", "model", ["prompt"]),
        ("/v1/embeddings", "model", ["input"]),
        ("/v1/models/load", "model_name", []),
        ("/v1/models/unload", "model_name", []),
        ("/api/show", "model", []),
        ("/api/generate", "model", ["prompt"]),
    ):
        status, _, answer = impatient_service.request(
            path, {field: name, **{f: body[f] for f in fields}}
        )
        assert status == 404, answer
        assert str(impatient_service.folder) not in answer.decode()
