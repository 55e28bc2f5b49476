"""Fetches an image over HTTP, within limits and from public addresses only.

Every hop of a redirect is looked at anew, and the connection goes to the very address that was
looked at. No proxy, cookie or password of this machine is used.
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
from vllm_obtain.cooperative import alarm
from vllm_obtain.images.address import is_public, resolve

MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_PIECE = 65536
# What may stand in a URL's path and query as it is.
_SAFE = "%/:=&?~#+!$,;'@()*[]"
_HEADERS = {
    "Accept": "image/*",
    # What is packed cannot be measured before it is unpacked.
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": f"vllm-obtain/{__version__}",
}


class FetchError(Exception):
    """The image cannot be had; the message says why and what to do, as sentences."""


class Fetch:
    """The images of one request on their way; every wait of it can be ended from outside.

    Args:
        deadline: monotonic seconds when it has taken too long.
        most: bytes of one image.
        private: whether addresses that are not public are allowed.
    """

    def __init__(self, deadline: float, most: int, private: bool) -> None:
        self._deadline = deadline
        self._most = most
        self._private = private
        self._waits_on: socket.socket | None = None
        self._over = False

    def interrupt(self) -> None:
        """End whatever it waits for; may be called by an event loop."""
        self._over = True
        if self._waits_on is not None:
            with contextlib.suppress(OSError):
                self._waits_on.shutdown(socket.SHUT_RDWR)

    def get(self, url: str) -> bytes:
        """Fetch one.

        Raises:
            FetchError: it cannot be had.
        """
        late = alarm(self._left, self.interrupt)
        try:
            for _ in range(MOST_REDIRECTS + 1):
                found = self._hop(_parsed(url))
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found)
            raise FetchError(f"It is redirected more than {MOST_REDIRECTS} times.")
        finally:
            late.stop()

    @property
    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _hop(self, url: SplitResult) -> bytes | str:
        """Ask one server: for the image, or for where else it is."""
        host, port = str(url.hostname), url.port or _PORTS[url.scheme]
        try:
            with self._connected(self._addresses(host, port), port, host, url.scheme) as line:
                return self._asked(line, url, host)
        except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
            raise FetchError(self._why(host, error)) from None

    def _why(self, host: str, error: Exception) -> str:
        if self._over or isinstance(error, TimeoutError) or self._left <= 0:
            return (
                f"'{host}' did not send it within IMAGE_FETCH_TIMEOUT. Send it as a data URL, or "
                "have the owner of the service raise that."
            )
        if isinstance(error, ssl.SSLError):
            return f"The certificate of '{host}' is not valid. Send the image as a data URL."
        said = getattr(error, "strerror", None) or type(error).__name__
        return f"It cannot be fetched from '{host}': {said}. Check the URL, or send a data URL."

    def _addresses(self, host: str, port: int) -> list[str]:
        found: list[list[str] | Exception] = []
        ours, its = socket.socketpair()

        def look() -> None:
            try:
                found.append(resolve(host, port))
            except (OSError, UnicodeError) as error:
                found.append(error)
            its.close()

        # The system's look-up knows no deadline, so it is not waited for but in a thread.
        threading.Thread(target=look, daemon=True).start()
        with ours, self._waiting(ours):
            ours.recv(1)
        if not found:
            raise TimeoutError
        if isinstance(found[0], Exception):
            raise found[0]
        if not self._private and not all(map(is_public, found[0])):
            raise FetchError(
                f"'{host}' is at a private address, from which nothing is fetched. Send the image "
                "as a data URL, or have the owner of the service set IMAGE_PRIVATE_ADDRESSES=true."
            )
        return found[0]

    @contextlib.contextmanager
    def _connected(
        self, addresses: list[str], port: int, host: str, scheme: str
    ) -> Iterator[socket.socket]:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            line = socket.socket(family, socket.SOCK_STREAM)
            try:
                with self._waiting(line):
                    # Numbers, so that nothing is looked up a second time.
                    line.connect(socket.getaddrinfo(address, port, family)[0][4])
                break
            except OSError:
                line.close()
                if address == addresses[-1] or self._over:
                    raise
        with contextlib.closing(line):
            if scheme == "http":
                yield line
                return
            wrapped = _context().wrap_socket(
                line, server_hostname=host, do_handshake_on_connect=False
            )
            with contextlib.closing(wrapped):
                with self._waiting(wrapped):
                    wrapped.do_handshake()
                yield wrapped

    def _asked(self, line: socket.socket, url: SplitResult, host: str) -> bytes | str:
        asking = http.client.HTTPConnection(host)
        asking.sock = line
        path = quote(url.path or "/", safe=_SAFE) + (
            f"?{quote(url.query, safe=_SAFE)}" if url.query else ""
        )
        with self._waiting(line):
            asking.request("GET", path, headers={**_HEADERS, "Host": _host(url)})
            with contextlib.closing(asking.getresponse()) as answer:
                target = answer.getheader("Location")
                if answer.status in _REDIRECTS and target:
                    return target
                if answer.status != 200:
                    raise FetchError(f"'{host}' answered {answer.status}. Check the URL.")
                return self._body(answer)

    def _body(self, answer: http.client.HTTPResponse) -> bytes:
        body = bytearray()
        while max(len(body), answer.length or 0) <= self._most:
            if self._over:
                raise TimeoutError
            if piece := answer.read1(_PIECE):
                body += piece
            elif answer.length:
                raise ConnectionResetError(0, "the connection ended early")
            else:
                return bytes(body)
        raise FetchError(
            f"It is larger than {self._most >> 20} MiB (IMAGE_MAX_MB). Send a smaller one."
        )

    @contextlib.contextmanager
    def _waiting(self, line: socket.socket) -> Iterator[None]:
        """Have `interrupt` end the waits on a socket."""
        self._waits_on = line
        try:
            if self._over or self._left <= 0:
                raise TimeoutError
            line.settimeout(self._left)
            yield
            if self._over:
                raise TimeoutError
        finally:
            self._waits_on = None


def _parsed(url: str) -> SplitResult:
    try:
        found = urlsplit(url)
        host, _ = found.hostname, found.port
    except ValueError:
        raise FetchError("Its URL makes no sense.") from None
    if found.scheme not in _PORTS:
        raise FetchError("Its URL begins with neither http:// nor https://.")
    if not host:
        raise FetchError("Its URL names no host.")
    if found.username is not None or found.password is not None:
        raise FetchError("Its URL holds a user's name; send such an image as a data URL.")
    return found


def _host(url: SplitResult) -> str:
    """The host as the server wants to read it."""
    host = str(url.hostname)
    named = f"[{host}]" if ":" in host else host.encode("idna").decode()
    return named if url.port is None else f"{named}:{url.port}"


@functools.cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()
