"""A small HTTP server of images, with the faults that such servers have."""

from __future__ import annotations

import http.server
import ssl
import threading
from typing import Any

from tests.vision.model import png


class Pictures:
    """Serves on 127.0.0.1 until it is closed.

    `/<n>.png` is an image of random pixels; `/hop/<n>` redirects n times; `/to?<url>` redirects
    there; `/silent` never answers; the others are in `_Handler`.

    Args:
        context: for HTTPS.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []
        self.left = threading.Event()
        self.arrived = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.pictures = self  # type: ignore[attr-defined]
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Pictures:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        pictures: Pictures = self.server.pictures  # type: ignore[attr-defined]
        pictures.requests.append(self.path)
        name, _, query = self.path[1:].partition("?")
        kind, _, rest = name.partition("/")
        match kind:
            case "hop" if int(rest):
                self._redirect(f"/hop/{int(rest) - 1}")
            case "hop":
                self._send(png(seed=1))
            case "to":
                self._redirect(query)
            case "silent":
                # Until the client hangs up: an end of file.
                pictures.arrived.set()
                self.rfile.read(1)
                pictures.left.set()
            case "large":
                self._send(png(seed=1) + bytes(2 << 20))
            case "endless":
                self._endless()
            case "short":
                self._send(png(seed=1)[:50], length=1000)
            case "text":
                self._send(b"<html>no image</html>")
            case _ if kind.endswith(".png"):
                self._send(png(seed=int(kind[:-4])))
            case _:
                self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length or len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def _endless(self) -> None:
        """Send chunks for as long as somebody takes them."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        except OSError:
            self.close_connection = True
