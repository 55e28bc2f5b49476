"""llama.cpp's own server on a Unix socket, asked directly: what ours is compared with."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.service import ROOT

_SERVER = ROOT / "vllm_obtain" / "engines" / "llama_cpp" / "server.py"
_PLAN = {
    "n_parallel": 1,
    "n_ctx": 512,
    "n_batch": 64,
    "n_ubatch": 64,
    "n_threads_http": 2,
    "n_gpu_layers": 0,
    "cache_ram_mib": 0,
    "threads": 1,
    "threads_batch": 2,
}


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


class LlamaCpp:
    """A running server."""

    def __init__(self, path: str) -> None:
        self._path = path

    def post(self, url: str, body: dict[str, Any]) -> Any:
        connection = _Connection(self._path)
        connection.request("POST", url, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return json.loads(content)

    def tokens(self, text: str, add_special: bool = False) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return list(self.post("/tokenize", body)["tokens"])

    def text(self, tokens: list[int]) -> str:
        return str(self.post("/detokenize", {"tokens": tokens})["content"])

    def is_ready(self) -> bool:
        try:
            self.tokens("x")
        except (OSError, AssertionError, http.client.HTTPException):
            return False
        return True


@contextmanager
def llama_cpp(model: Path) -> Iterator[LlamaCpp]:
    """Start a server for a model, wait until it answers, and stop it at the end."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path, log = f"{folder}/s.sock", Path(folder) / "log"
        plan = json.dumps({**_PLAN, "model": str(model), "socket": path})
        with log.open("w") as out:
            child = subprocess.Popen([sys.executable, str(_SERVER), plan], stdout=out, stderr=out)
        try:
            server, end = LlamaCpp(path), time.monotonic() + 60
            while not server.is_ready():
                running = child.poll() is None and time.monotonic() < end
                assert running, log.read_text()[-2000:]
                time.sleep(0.05)
            yield server
        finally:
            child.kill()
            child.wait()
