"""What an engine hears of a trace, with and without a collector of ours."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

from vllm_obtain.engines.connection import EngineConnection
from vllm_obtain.tracing.spans import Tracing

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_headers_of_a_client_go_on_to_the_engine(tmp_path: Path) -> None:
    trace = Tracing().begin(PARENT, "a=1")
    assert trace.id == PARENT.split("-")[1]
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "engine"))
        listener.listen()

        def engine() -> None:
            line, _ = listener.accept()
            with line:
                requests.append(line.recv(65536))
                line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        answering = threading.Thread(target=engine)
        answering.start()
        path, end = str(tmp_path / "engine"), time.monotonic() + 10
        assert EngineConnection(path, end, headers=trace.headers).request("/v1/x", {}) == b"{}"
        answering.join()
    head = requests[0].partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert f"traceparent: {PARENT}".encode() in head and b"tracestate: a=1" in head


def test_a_request_without_one_has_nothing_to_pass_on() -> None:
    trace = Tracing().begin("", "a=1")
    assert (trace.id, trace.headers) == ("", {})
