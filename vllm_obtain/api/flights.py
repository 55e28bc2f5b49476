"""Identical deterministic requests share one generation; finished ones are kept.

A flight runs in a thread (a greenlet under gevent) of its own, so it goes on when the request
that began it leaves; it ends when nobody is left. Over all workers the supervisor sees to it
that one flight per key leads and the others get its answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import msgspec

from vllm_obtain.api.cancel import Cancel
from vllm_obtain.api.tally import Tally
from vllm_obtain.catalogue import Model
from vllm_obtain.errors import ClientGone, InternalError, ServiceError
from vllm_obtain.log import get_logger
from vllm_obtain.protocol.events import Event

log = get_logger("vllm_obtain.flights")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[list[Event]]).decode


def key_of(asked: bytes, model: Model, api_key: str) -> bytes:
    """Fingerprint a request by all that its answer depends on, and by who may see it.

    Args:
        asked: the fingerprint of what is asked.
        model: its adapter may be another one.
        api_key: the caller's key, empty when there is none.
    """
    parts = f"{api_key}\0{model.adapter_revision}\0".encode()
    return hashlib.blake2b(parts + asked, digest_size=24).digest()


class News:
    """What one follower has not heard yet."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[list[Event] | None] = queue.SimpleQueue()
        self._spoken = False

    def put(self, events: list[Event] | None) -> None:
        """Tell of events, or of the end; never waits."""
        self._queue.put(events)

    def next(self, pulse: float | None) -> list[Event] | None:
        """Wait for events; None at the end.

        Args:
            pulse: seconds after which an empty list says that there are none yet. There is no
                such thing once there were any: a timeout costs a wait half of its time.
        """
        try:
            events = self._queue.get(timeout=None if self._spoken else pulse)
        except queue.Empty:
            return []
        self._spoken = self._spoken or bool(events)
        return events

    def interrupt(self) -> None:
        """Have the follower look whether its client is still there."""
        self._queue.put([])


class Flight:
    """A generation that any number of requests follow.

    Args:
        key: see `key_of`.
        pulse: seconds of silence before the first events after which followers get an empty list,
            None for never.
    """

    def __init__(self, key: bytes, pulse: float | None = None) -> None:
        self.key = key
        self._pulse = pulse
        self.cancel = Cancel()
        self._events: list[list[Event]] = []
        self._over = False
        self._error: ServiceError | None = None
        self._lock = threading.Lock()
        self._followed_by: list[News] = []
        self.followers = 0
        self.recalled = False
        # What its generation comes to, once it has begun.
        self.tally: Tally | None = None

    def follow(self, cancel: Cancel) -> Iterator[list[Event]]:
        """Yield all events, from the first one on, as they come.

        Raises:
            ServiceError: the generation failed.
            ClientGone: `cancel` fired.
        """
        with self._told() as news, cancel.attached(news):
            while True:
                events = news.next(self._pulse)
                if cancel.gone:
                    raise cancel.cause
                if events is None:
                    break
                yield events
        if self._error is not None:
            raise self._error

    @contextlib.contextmanager
    def _told(self) -> Iterator[News]:
        """Have somebody told of all events, those that are there already first."""
        news = News()
        with self._lock:
            for events in self._events:
                news.put(events)
            if self._over:
                news.put(None)
            self._followed_by.append(news)
        try:
            yield news
        finally:
            with self._lock:
                self._followed_by.remove(news)

    def run(self, generate: Callable[[Flight], Iterable[list[Event]]]) -> None:
        """Carry the flight out; whatever happens, followers are told."""
        error: ServiceError | None = None
        begun = False
        try:
            for events in generate(self):
                # Followers keep their own time; all they hear of the wait is that it is over.
                if events or not begun:
                    self.publish(events)
                begun = True
        except ServiceError as failure:
            error = failure
        except ClientGone:
            error = ServiceError("Nobody waited for this answer any more.", status=499)
        except Exception:
            log.exception("a shared generation failed")
            error = InternalError("The service failed; its log has the details.")
        with self._lock:
            self._error, self._over = error, True
            for news in self._followed_by:
                news.put(None)

    def publish(self, events: list[Event]) -> None:
        """Add events and wake the followers."""
        with self._lock:
            self._events.append(events)
            for news in self._followed_by:
                news.put(events)

    def answer(self) -> bytes:
        """All events, to be kept."""
        return _encode(self._events)

    def recall(self, answer: bytes) -> list[list[Event]]:
        """Read an answer that was kept."""
        self.recalled = True
        return _decode(answer)


class Flights:
    """The flights of one worker.

    Args:
        pulse: as in `Flight`.
    """

    def __init__(self, pulse: float | None = None) -> None:
        self._pulse = pulse
        self._flights: dict[bytes, Flight] = {}
        self._lock = threading.Lock()

    def join(
        self, key: bytes, generate: Callable[[Flight], Iterable[list[Event]]]
    ) -> tuple[Flight, bool]:
        """Follow the flight of a key, beginning one if there is none.

        Args:
            key: see `key_of`.
            generate: makes the events of a new flight, read in a thread of its own.

        Returns:
            The flight, and whether it was under way already. Call `leave` when done.
        """
        with self._lock:
            flight = self._flights.get(key)
            known = flight is not None
            if flight is None:
                flight = self._flights[key] = Flight(key, self._pulse)
                threading.Thread(target=self._fly, args=(flight, generate), daemon=True).start()
            flight.followers += 1
        return flight, known

    def leave(self, flight: Flight) -> None:
        """Stop following; a flight that nobody follows ends."""
        with self._lock:
            flight.followers -= 1
            abandoned = flight.followers == 0
            if abandoned:
                self._forget(flight)
        if abandoned:
            flight.cancel.fire()

    def _fly(self, flight: Flight, generate: Callable[[Flight], Iterable[list[Event]]]) -> None:
        flight.run(generate)
        with self._lock:
            self._forget(flight)

    def _forget(self, flight: Flight) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
