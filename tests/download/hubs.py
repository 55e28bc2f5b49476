"""A hub for tests: speaks both hubs' protocols, and cuts, spoils, slows and refuses."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_BLOCK = bytes(range(256)) * 4096  # a mebibyte


@dataclass
class File:
    """A file of a repository; `content`, or `size` bytes that are made as they are sent."""

    content: bytes = b""
    made: int = 0
    lfs: bool = True
    claimed: int | None = None

    @property
    def size(self) -> int:
        return self.made or len(self.content)

    def read(self, start: int, count: int) -> bytes:
        if not self.made:
            return self.content[start : start + count]
        offset = start % len(_BLOCK)
        return _BLOCK[offset : offset + min(count, self.made - start)]

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for start in range(0, self.size, len(_BLOCK)):
            digest.update(self.read(start, len(_BLOCK)))
        return digest.hexdigest()

    @property
    def blob(self) -> str:
        header = b"blob %d\0" % self.size
        return hashlib.sha1(header + self.content, usedforsecurity=False).hexdigest()


@dataclass
class Faults:
    """What the hub does to transfers of files over `least` bytes; counted down."""

    cuts: int = 0
    cut_after: int = 0
    spoiled: int = 0
    rate: int = 0  # bytes a second
    status: int = 0  # of every answer
    file_status: list[int] = field(default_factory=list)  # of the next files, 0 for none
    least: int = 1000


class Hub(ThreadingHTTPServer):
    """The server."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, File]] = {}
        self.faults = Faults()
        self.sent: dict[str, int] = {}
        self.requests: list[tuple[str, str]] = []
        self.commit = COMMIT
        self.lock = threading.Lock()
        self.gate = threading.Event()
        self.gate.set()
        self.flowing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def transfers(self) -> list[str]:
        """The ranges of the transfers of large files."""
        return [
            ranged for path, ranged in self.requests if path.endswith((".gguf", ".safetensors"))
        ]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, parts = self.server, urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if hub.faults.status:
            return self._refuse(hub.faults.status)
        if found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo/files", path):
            return self._modelscope(found[1])
        if found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo", path):
            return self._file(found[1], query["FilePath"][0], body)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.+)?", path):
            return self._huggingface(found[1])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._file(found[1], found[2], body)
        return self._refuse(404)

    def _huggingface(self, name: str) -> None:
        files = self.server.repositories.get(name)
        if files is None:
            return self._refuse(404)
        siblings = []
        for path, file in files.items():
            size = file.claimed or file.size
            told: dict[str, Any] = {"rfilename": path, "size": size, "blobId": "0" * 40}
            if file.lfs:
                told["lfs"] = {"sha256": file.sha256, "size": size, "pointerSize": 134}
            else:
                told["blobId"] = file.blob
            siblings.append(told)
        return self._json({"id": name, "sha": self.server.commit, "siblings": siblings})

    def _modelscope(self, name: str) -> None:
        files = self.server.repositories.get(name)
        if files is None:
            return self._refuse(404)
        listed = [
            {"Path": path, "Size": f.claimed or f.size, "Sha256": f.sha256, "Type": "blob"}
            for path, f in files.items()
        ]
        return self._json({"Code": 200, "Success": True, "Data": {"Files": listed}})

    def _json(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: int) -> None:
        content = json.dumps({"Code": status, "Message": "no", "error": "no"}).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _file(self, name: str, path: str, body: bool) -> None:
        hub = self.server
        file = hub.repositories.get(name, {}).get(path)
        if file is None:
            return self._refuse(404)
        large = body and file.size >= hub.faults.least
        status = hub.faults.file_status.pop(0) if large and hub.faults.file_status else 0
        if status:
            return self._refuse(status)
        ranged = self.headers.get("Range", "")
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", ranged)
        start = int(found[1]) if found else 0
        end = int(found[2]) + 1 if found and found[2] else file.size
        if body:
            hub.requests.append((path, ranged))
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{file.size}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{file.sha256 if file.lfs else file.blob}"')
        self.send_header("X-Repo-Commit", hub.commit)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        return self._send(path, file, start, end) if body else None

    def _send(self, path: str, file: File, start: int, end: int) -> None:
        hub, faults = self.server, self.server.faults
        stop = end
        with hub.lock:
            large = file.size >= faults.least
            if large and faults.cuts and end - start > faults.cut_after:
                faults.cuts -= 1
                stop = start + faults.cut_after
            spoil = large and stop == end and faults.spoiled > 0
            faults.spoiled -= spoil
        step = max(1, faults.rate // 20) if faults.rate else len(_BLOCK)
        while start < stop:
            if large:
                hub.gate.wait(30)
            piece = file.read(start, min(step, stop - start))
            if spoil:
                piece, spoil = bytes([piece[0] ^ 1]) + piece[1:], False
            self.wfile.write(piece)
            start += len(piece)
            with hub.lock:
                hub.sent[path] = hub.sent.get(path, 0) + len(piece)
            if large:
                hub.flowing.set()
            if faults.rate:
                time.sleep(len(piece) / faults.rate)
        if stop < end:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(2)


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """Run one."""
    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        server.server_close()
