"""The gateway's connection to a running engine: one HTTP request over its Unix socket.

Connections are not reused: a new one costs almost nothing on a Unix socket, and an engine may
close an idle one at any time.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping

import httptools
import msgspec

from vllm_obtain.engines.stream_parser import ENGINE_DEAD, SSEDecoder, read_chunk, read_error
from vllm_obtain.errors import EngineFailed, RequestTimeout, ServiceError
from vllm_obtain.gevent_compat import Timer, send_all, set_read_priority, timer, wait_for_data
from vllm_obtain.protocol.events import Event

_encode = msgspec.json.Encoder().encode
READ_BYTES = 65536
BUSY_PAUSE = 0.005


class EngineConnectionLost(EngineFailed):
    """The connection to the engine broke before its response was complete."""

    code = "engine_lost"
    # When the engine's process started (`LeaseGranted.loaded_at`); 0 if none is known.
    process = 0.0


class EngineConnection:
    """One request and its streamed response.

    Args:
        path: the engine's socket.
        deadline: monotonic time in seconds at which the request times out.
        keep_alive: seconds of silence after which `events` yields an empty list; None for never.
        headers: additional request headers.
    """

    def __init__(
        self,
        path: str,
        deadline: float,
        keep_alive: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self._path = path
        self._deadline = deadline
        self._keep_alive = keep_alive
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        set_read_priority(self._socket)
        self._received: list[bytes] = []
        # The parser calls it with each piece of the body.
        self.on_body = self._received.append
        self._parser = httptools.HttpResponseParser(self)
        self._complete = False
        self._timer: Timer | None = None
        self._expired = False
        self._wait = wait_for_data(self._socket)

    def events(self, url: str, body: object) -> Iterator[list[Event]]:
        """Send a request and yield its events as they arrive, one list per read with events.

        Args:
            url: the path of the engine's route.
            body: the body, encoded as JSON.

        Raises:
            EngineConnectionLost: the connection broke.
            RequestTimeout: the deadline passed.
            ServiceError: the engine rejected the request, or reported an error in its stream.
        """
        with self._deadline_enforced():
            self._send(url, _encode(body))
            self._socket.settimeout(self._keep_alive)
            decoder = SSEDecoder()
            done = False
            while not done:
                if self._complete:
                    raise ConnectionResetError("end of body without [DONE]")
                try:
                    received = self._read()
                except TimeoutError:
                    yield []
                    continue
                if (status := self._parser.get_status_code()) >= 400:
                    self.after_first_token()
                    raise read_error(received + self._read_to_end(), status)
                events: list[Event] = []
                problem: ServiceError | None = None
                for data in decoder.feed(received):
                    if data == b"[DONE]":
                        done = True
                        break
                    try:
                        events += read_chunk(data)
                    except ServiceError as error:
                        problem = error
                        break
                if events:
                    yield events
                if problem is not None:
                    raise problem

    def request(self, url: str, body: object) -> bytes:
        """Send a request and return the response body; arguments and errors as for `events`."""
        with self._deadline_enforced():
            self._send(url, _encode(body))
            response = self._read_to_end()
            if (status := self._parser.get_status_code()) >= 400:
                raise read_error(response, status)
            return response

    @contextlib.contextmanager
    def _deadline_enforced(self) -> Iterator[None]:
        """Enforce the deadline and translate connection errors."""
        # One timer for all reads: a timeout per read would make each a fifth slower.
        self._timer = timer(self._deadline - time.monotonic(), self._expire)
        try:
            yield
        except EngineFailed as error:
            if error.code == ENGINE_DEAD:
                raise EngineConnectionLost(
                    "The engine stopped before the response was complete. Try again."
                ) from error
            raise
        except (OSError, httptools.HttpParserError) as error:
            # A read that times out is a heartbeat; `_events` handles it.
            if self._expired or isinstance(error, TimeoutError):
                raise _deadline_error() from None
            raise EngineConnectionLost(
                "The engine stopped before the response was complete. Try again."
            ) from error

    def after_first_token(self) -> None:
        """Read at normal priority from now on, and yield no empty lists.

        The first token of a stream has priority over further tokens of others. A timeout per read
        makes each read a fifth slower.
        """
        set_read_priority(self._socket, False)
        self._socket.settimeout(None)

    def interrupt(self) -> None:
        """End a read in another greenlet or thread at once."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the engine cancels the request."""
        if self._timer is not None:
            self._timer.stop()
        self._socket.close()

    def on_message_complete(self) -> None:
        """Record the end of the response; called by the parser."""
        self._complete = True

    def _send(self, url: str, data: bytes) -> None:
        self._connect()
        head = (
            f"POST {url} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\n{self._headers}Content-Length: {len(data)}\r\n\r\n"
        )
        send_all(self._socket, head.encode() + data)

    def _expire(self) -> None:
        self._expired = True
        self.interrupt()

    def _connect(self) -> None:
        self._socket.settimeout(0)
        while not self._expired:
            try:
                self._socket.connect(self._path)
                break
            except BlockingIOError:
                # The accept queue of the engine is full. A Unix socket has nothing to wait on
                # until it accepts again.
                time.sleep(BUSY_PAUSE)
        # The timer had nothing to shut down before the socket was connected.
        if self._expired:
            raise TimeoutError
        self._socket.settimeout(None)

    def _read_to_end(self) -> bytes:
        body = b""
        while not self._complete:
            body += self._read()
        return body

    def _read(self) -> bytes:
        if self._wait is not None:
            self._wait()
        received = self._socket.recv(READ_BYTES)
        if self._expired or not received:
            raise ConnectionResetError("end of stream")
        self._parser.feed_data(received)
        body = b"".join(self._received)
        self._received.clear()
        return body


def _deadline_error() -> RequestTimeout:
    return RequestTimeout(
        "The response was not complete within REQUEST_TIMEOUT. Request fewer tokens, or "
        "raise REQUEST_TIMEOUT.",
        retry=False,
    )
