"""A real MLX server process, and a client that talks to it as the gateway does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.waiting import eventually
from vllm_obtain.engines.mlx import server_main

START_SECONDS = 60
GREEDY = {"temperature": 0}


@dataclass
class Answer:
    """What came back, read."""

    status: int
    chunks: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    done: bool = False

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk["choices"]]

    @property
    def text(self) -> str:
        return "".join(choice["text"] for choice in self.choices)

    @property
    def finish(self) -> str:
        (reason,) = [c["finish_reason"] for c in self.choices if c["finish_reason"]]
        return str(reason)

    @property
    def usage(self) -> dict[str, Any]:
        (usage,) = [chunk["usage"] for chunk in self.chunks if "usage" in chunk]
        return dict(usage)

    @property
    def cached(self) -> int:
        return int(self.usage["prompt_tokens_details"]["cached_tokens"])

    @property
    def progress(self) -> list[dict[str, int]]:
        return [chunk["prompt_progress"] for chunk in self.chunks if "prompt_progress" in chunk]

    @property
    def logprobs(self) -> list[dict[str, Any]]:
        return [entry for c in self.choices if c["logprobs"] for entry in c["logprobs"]["content"]]


class Stream:
    """One connection with an answer that is being read."""

    def __init__(self, path: Path, url: str, body: Any) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        self._socket.connect(str(path))
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {url} HTTP/1.1\r\nHost: engine\r\nContent-Length: {len(data)}\r\n\r\n"
        self._socket.sendall(head.encode() + data)
        self._file = self._socket.makefile("rb")
        self._seen = b""

    def read(self) -> Answer:
        """Read to the end."""
        head, _, rest = (self._seen + self._file.read()).partition(b"\r\n\r\n")
        answer = Answer(int(head.split()[1]))
        if b"text/event-stream" not in head:
            answer.error = json.loads(rest)["error"]
            return answer
        for data in _events(_decode_chunks(rest)):
            answer.done = data == b"[DONE]"
            if not answer.done:
                answer.chunks.append(json.loads(data))
        return answer

    def rest(self) -> bytes:
        """Read to the end, as it is."""
        return self._file.read()

    def until(self, text: bytes) -> None:
        """Read until a line holds some text."""
        while text not in (line := self._file.readline()):
            assert line, "the stream ended"
            self._seen += line
        self._seen += line

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Server:
    """The process."""

    def __init__(self, folder: Path, socket_path: Path, **config: Any) -> None:
        self.socket = socket_path
        values = {"model": str(folder), "socket": str(socket_path), "device": "cpu", **config}
        command = [sys.executable, "-u", "-P", server_main.__file__, json.dumps(values)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def wait(self) -> Server:
        eventually(self._healthy, START_SECONDS)
        return self

    def _healthy(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(self.process.stdout.read().decode())  # type: ignore[union-attr]
        try:
            return self.get("/health").startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def get(self, url: str) -> bytes:
        return self.raw(f"GET {url} HTTP/1.1\r\n\r\n".encode())

    def ask(self, url: str, body: Any) -> tuple[int, Any]:
        """Ask for what is answered whole: the status and the body."""
        stream = Stream(self.socket, url, body)
        head, _, rest = stream.rest().partition(b"\r\n\r\n")
        stream.close()
        return int(head.split()[1]), json.loads(rest)

    def raw(self, data: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(30)
            connection.connect(str(self.socket))
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as file:
                return file.read()

    @property
    def metrics(self) -> dict[str, int]:
        return dict(json.loads(self.get("/metrics").partition(b"\r\n\r\n")[2]))

    def stream(self, prompt: Any, **body: Any) -> Stream:
        body = {"stream": True, "return_progress": True, "prompt": prompt, **body}
        return Stream(self.socket, "/v1/completions", body)

    def complete(self, prompt: Any, **body: Any) -> Answer:
        return self.stream(prompt, **body).read()

    def together(self, requests: list[dict[str, Any]]) -> list[Answer]:
        """Have several requests answered at once."""
        streams = [self.stream(**request) for request in requests]
        answers: dict[int, Answer] = {}

        def read(number: int) -> None:
            answers[number] = streams[number].read()

        threads = [threading.Thread(target=read, args=(n,)) for n in range(len(streams))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [answers[number] for number in range(len(streams))]

    def until(self, holds: Callable[[dict[str, int]], bool], seconds: float = 20) -> None:
        eventually(lambda: holds(self.metrics), seconds)


@contextmanager
def run_server(folder: Path, runtime: Path, **config: Any) -> Iterator[Server]:
    server = Server(folder, runtime / "mlx.sock", **config)
    try:
        yield server.wait()
    finally:
        server.process.kill()
        server.process.communicate()


def _decode_chunks(chunked: bytes) -> bytes:
    joined = b""
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        joined, chunked = joined + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return joined


def _events(data: bytes) -> list[bytes]:
    return [block.removeprefix(b"data: ") for block in data.split(b"\n\n") if block]
