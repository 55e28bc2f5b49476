"""The gateway's connection to a running engine: one HTTP request over its Unix socket.

One connection per request: over a Unix socket that costs next to nothing, and an engine may
close one it was asked to keep.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping

import httptools
import msgspec

from vllm_obtain.cooperative import Alarm, alarm, serve_first, wait_for_data
from vllm_obtain.errors import EngineFailed, RequestTimeout, ServiceError
from vllm_obtain.protocol.chunks import ENGINE_DEAD, read_chunk, read_error
from vllm_obtain.protocol.events import Event
from vllm_obtain.protocol.sse import Splitter

_encode = msgspec.json.Encoder().encode
READ_BYTES = 65536
BUSY_PAUSE = 0.005


class EngineLost(EngineFailed):
    """The engine's connection broke before its answer was complete."""

    code = "engine_lost"
    # Whether tokens had come: a stream that has them cannot begin anew.
    midway = False


class Exchange:
    """One request and its streamed answer.

    Args:
        path: the engine's socket.
        deadline: monotonic seconds after which the answer is of no use.
        pulse: seconds of silence after which an empty list is yielded, None for never.
        headers: to be sent beside those that each request has.
    """

    def __init__(
        self,
        path: str,
        deadline: float,
        pulse: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._headers = "".join(f"{name}: {each}\r\n" for name, each in (headers or {}).items())
        self._path = path
        self._deadline = deadline
        self._pulse = pulse
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        serve_first(self._socket)
        self._parser = httptools.HttpResponseParser(self)
        self._received: list[bytes] = []
        self._whole = False
        self._alarm: Alarm | None = None
        self._late = False
        self._settled = False

    def events(self, url: str, body: object) -> Iterator[list[Event]]:
        """Send a request and yield what comes, as it comes; one list per read that held events.

        Args:
            url: the path of the engine's route.
            body: what to send, as JSON.

        Raises:
            EngineLost: the connection broke.
            RequestTimeout: the deadline passed.
            ServiceError: the engine refused the request, or reported an error in its stream.
        """
        with self._timed():
            self._send(url, _encode(body))
            self._socket.settimeout(self._pulse)
            yield from self._read()

    def whole(self, url: str, body: object) -> bytes:
        """Send a request and return the body of its answer; arguments and errors as `events`."""
        with self._timed():
            self._send(url, _encode(body))
            self._socket.settimeout(None)
            answer = self._rest()
            if (status := self._parser.get_status_code()) >= 400:
                raise read_error(answer, status)
            return answer

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Keep the deadline, and say in our own words what breaks."""
        # One alarm for all reads: a timeout of their own would cost each a fifth of its time.
        self._alarm = alarm(self._deadline - time.monotonic(), self._expire)
        try:
            yield
        except EngineFailed as error:
            if error.code == ENGINE_DEAD:
                raise EngineLost("The engine ended while it answered. Try again.") from error
            raise
        except (OSError, httptools.HttpParserError) as error:
            # What times out while it is read is a pulse, and does not come here.
            if self._late or isinstance(error, TimeoutError):
                raise _too_late() from None
            raise EngineLost("The engine ended while it answered. Try again.") from error

    def settle_in(self) -> None:
        """Read as one of many from now on, and yield no empty lists.

        The first token is served before other streams' next ones; and a timeout per read costs a
        fifth of its time.
        """
        serve_first(self._socket, False)
        self._socket.settimeout(None)
        self._settled = True

    def interrupt(self) -> None:
        """Make a read in another greenlet or thread end at once."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the engine stops what it does for it."""
        if self._alarm is not None:
            self._alarm.stop()
        self._socket.close()

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body; called by the parser."""
        self._received.append(data)

    def on_message_complete(self) -> None:
        """Note the end; called by the parser."""
        self._whole = True

    def _send(self, url: str, data: bytes) -> None:
        self._connect()
        head = (
            f"POST {url} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\n{self._headers}Content-Length: {len(data)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + data)

    def _expire(self) -> None:
        self._late = True
        self.interrupt()

    def _connect(self) -> None:
        # With no timeout at all, a thread would block in a connect that the alarm cannot end.
        self._socket.settimeout(max(BUSY_PAUSE, self._deadline - time.monotonic()))
        while not self._late:
            try:
                self._socket.connect(self._path)
                break
            except BlockingIOError:
                # The queue of the engine's listener is full. It lives, and will accept in a
                # moment, but a Unix socket has nothing to wait on.
                time.sleep(BUSY_PAUSE)
        # Before the connection the alarm had nothing to shut down.
        if self._late:
            raise TimeoutError

    def _read(self) -> Iterator[list[Event]]:
        splitter = Splitter()
        done = False
        while not done:
            if self._whole:
                raise ConnectionResetError("end of body without [DONE]")
            try:
                body = self._more()
            except TimeoutError:
                yield []
                continue
            if (status := self._parser.get_status_code()) >= 400:
                self.settle_in()
                raise read_error(body + self._rest(), status)
            events: list[Event] = []
            problem: ServiceError | None = None
            for data in splitter.feed(body):
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

    def _rest(self) -> bytes:
        rest = b""
        while not self._whole:
            rest += self._more()
        return rest

    def _more(self) -> bytes:
        if self._settled:
            wait_for_data(self._socket)
        received = self._socket.recv(READ_BYTES)
        if self._late or not received:
            raise ConnectionResetError("end of stream")
        self._parser.feed_data(received)
        body = b"".join(self._received)
        self._received.clear()
        return body


def _too_late() -> RequestTimeout:
    return RequestTimeout(
        "The answer was not complete within REQUEST_TIMEOUT. Ask for fewer tokens, or "
        "raise REQUEST_TIMEOUT.",
        retry=False,
    )
