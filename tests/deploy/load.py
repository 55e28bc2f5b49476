"""Clients that ask without a pause, and note how each request ended."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-for-the-tests-of-deployment"
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
WORDS = " ".join(f"w{number}" for number in range(12))


@dataclass
class Result:
    """How a request ended.

    Args:
        stream: whether its answer was streamed.
        status: of the answer; 0 if there was none.
        whole: whether the answer came to its end.
        begun: whether anything of its body came.
        stamps: when the pieces of a stream came.
        body: the answer.
    """

    stream: bool
    status: int = 0
    whole: bool = False
    begun: bool = False
    stamps: list[float] = field(default_factory=list)
    body: bytes = b""


def ask(port: int, stream: bool, **more: Any) -> Result:
    """One completion."""
    ended = Result(stream)
    body = {"model": "a", "prompt": WORDS, "max_tokens": 50, "temperature": 1, "stream": stream}
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        line.request("POST", "/v1/completions", json.dumps({**body, **more}), HEADERS)
        answer = line.getresponse()
        ended.status = answer.status
        while piece := answer.read1():
            ended.stamps.append(time.monotonic())
            ended.begun, ended.body = True, ended.body + piece
        done = ended.body.rstrip().endswith(b"[DONE]") if stream else bool(ended.body)
        ended.whole = done and ended.status == 200
    except (OSError, http.client.HTTPException):
        pass
    finally:
        line.close()
    return ended


class Clients:
    """Clients that ask until they are told to stop; half of them want streams."""

    def __init__(self, port: int, size: int) -> None:
        self.ended: list[Result] = []
        self._port = port
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(index % 2 == 0,), daemon=True)
            for index in range(size)
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, stream: bool) -> None:
        while not self._over.is_set():
            self.ended.append(ask(self._port, stream))
