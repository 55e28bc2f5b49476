"""Downloads an image over HTTP, within limits and from public addresses only.

The address of every redirect is checked, and the connection goes to the address that was checked.
Proxies, cookies and credentials of this machine are not used.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from vllm_obtain import __version__
from vllm_obtain.gevent_compat import timer
from vllm_obtain.images.ssrf import is_public, resolve

MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_CHUNK = 65536
# Characters of a URL's path and query that stay unescaped.
_SAFE = "%/:=&?~#+!$,;'@()*[]"
_HEADERS = {
    "Accept": "image/*",
    # The size of a compressed body is unknown before it is decompressed.
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": f"vllm-obtain/{__version__}",
}


class FetchError(Exception):
    """The download failed; the message says why and what to do, as sentences."""


class ImageFetcher:
    """Downloads the images of one request; every blocking call can be interrupted.

    Args:
        deadline: monotonic time in seconds at which the downloads fail.
        most: maximum bytes of one image.
        private: whether private addresses are allowed.
    """

    def __init__(self, deadline: float, max_bytes: int, allow_private: bool) -> None:
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._allow_private = allow_private
        self._current_socket: socket.socket | None = None
        self._is_interrupted = False

    def interrupt(self) -> None:
        """Interrupt the current download; safe to call from an event loop."""
        self._is_interrupted = True
        if self._current_socket is not None:
            with contextlib.suppress(OSError):
                self._current_socket.shutdown(socket.SHUT_RDWR)

    def get(self, url: str) -> bytes:
        """Download one image.

        Raises:
            FetchError: the download failed.
        """
        timeout = timer(self._seconds_left, self.interrupt)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                result = self._hop(_parse(url))
                if isinstance(result, bytes):
                    return result
                url = urljoin(url, result)
            raise FetchError(
                f"The URL redirects more than {MAX_REDIRECTS} times. Send the final URL."
            )
        finally:
            timeout.stop()

    @property
    def _seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    def _hop(self, url: SplitResult) -> bytes | str:
        """Send one request; returns the image, or the target of a redirect."""
        host, port = str(url.hostname), url.port or _PORTS[url.scheme]
        try:
            with self._connect(self._addresses(host, port), port, host, url.scheme) as sock:
                return self._request(sock, url, host)
        except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
            raise FetchError(self._message(host, error)) from None

    def _message(self, host: str, error: Exception) -> str:
        if self._is_interrupted or isinstance(error, TimeoutError) or self._seconds_left <= 0:
            return (
                f"'{host}' did not send the image within IMAGE_FETCH_TIMEOUT. Send it as a data "
                "URL, or raise IMAGE_FETCH_TIMEOUT."
            )
        if isinstance(error, ssl.SSLError):
            return f"The certificate of '{host}' is not valid. Send the image as a data URL."
        reason = getattr(error, "strerror", None) or type(error).__name__
        return (
            f"The image cannot be downloaded from '{host}': {reason}. Check the URL, or send a "
            "data URL."
        )

    def _addresses(self, host: str, port: int) -> list[str]:
        results: list[list[str] | Exception] = []
        done, thread_end = socket.socketpair()

        def look_up() -> None:
            try:
                results.append(resolve(host, port))
            except (OSError, UnicodeError) as error:
                results.append(error)
            thread_end.close()

        # getaddrinfo has no timeout, so it runs in a thread that can be abandoned.
        threading.Thread(target=look_up, daemon=True).start()
        with done, self._interruptible(done):
            done.recv(1)
        if not results:
            raise TimeoutError
        if isinstance(results[0], Exception):
            raise results[0]
        if not self._allow_private and not all(map(is_public, results[0])):
            raise FetchError(
                f"'{host}' is at a private address, which is not allowed. Send the image as a "
                "data URL, or set IMAGE_PRIVATE_ADDRESSES=true and restart the service."
            )
        return results[0]

    @contextlib.contextmanager
    def _connect(
        self, addresses: list[str], port: int, host: str, scheme: str
    ) -> Iterator[socket.socket]:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                with self._interruptible(sock):
                    # The address is numeric, so this does not query DNS again.
                    sock.connect(socket.getaddrinfo(address, port, family)[0][4])
                break
            except OSError:
                sock.close()
                if address == addresses[-1] or self._is_interrupted:
                    raise
        with contextlib.closing(sock):
            if scheme == "http":
                yield sock
                return
            wrapped = _context().wrap_socket(
                sock, server_hostname=host, do_handshake_on_connect=False
            )
            with contextlib.closing(wrapped):
                with self._interruptible(wrapped):
                    wrapped.do_handshake()
                yield wrapped

    def _request(self, sock: socket.socket, url: SplitResult, host: str) -> bytes | str:
        connection = http.client.HTTPConnection(host)
        connection.sock = sock
        path = quote(url.path or "/", safe=_SAFE) + (
            f"?{quote(url.query, safe=_SAFE)}" if url.query else ""
        )
        with self._interruptible(sock):
            connection.request("GET", path, headers={**_HEADERS, "Host": _host_header(url)})
            with contextlib.closing(connection.getresponse()) as response:
                target = response.getheader("Location")
                if response.status in _REDIRECTS and target:
                    return target
                if response.status != 200:
                    raise FetchError(f"'{host}' returned HTTP {response.status}. Check the URL.")
                return self._body(response)

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        body = bytearray()
        while max(len(body), response.length or 0) <= self._max_bytes:
            if self._is_interrupted:
                raise TimeoutError
            if chunk := response.read1(_CHUNK):
                body += chunk
            elif response.length:
                raise ConnectionResetError(0, "the connection was closed early")
            else:
                return bytes(body)
        raise FetchError(
            f"The image is larger than {self._max_bytes >> 20} MiB (IMAGE_MAX_MB). Send a smaller "
            "one."
        )

    @contextlib.contextmanager
    def _interruptible(self, sock: socket.socket) -> Iterator[None]:
        """Apply the deadline to a socket, and let `interrupt` shut it down."""
        self._current_socket = sock
        try:
            if self._is_interrupted or self._seconds_left <= 0:
                raise TimeoutError
            sock.settimeout(self._seconds_left)
            yield
            if self._is_interrupted:
                raise TimeoutError
        finally:
            self._current_socket = None


def _parse(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise FetchError("The URL is malformed. Check its host and port.") from None
    if parts.scheme not in _PORTS:
        raise FetchError("The URL must start with http://, https:// or data:.")
    if not host:
        raise FetchError("The URL has no host. Send the complete URL.")
    if parts.username is not None or parts.password is not None:
        raise FetchError("The URL contains user credentials. Send the image as a data URL.")
    return parts


def _host_header(url: SplitResult) -> str:
    host = str(url.hostname)
    encoded = f"[{host}]" if ":" in host else host.encode("idna").decode()
    return encoded if url.port is None else f"{encoded}:{url.port}"


@functools.cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()
