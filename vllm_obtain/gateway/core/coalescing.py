"""Coalesces identical deterministic requests: they share one generation.

A shared generation runs in a thread (a greenlet under gevent) of its own. It continues when the
client of the first request disconnects, and is cancelled when no follower is left. Across workers,
the supervisor lets one generation per key run, and returns its cached response to the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import msgspec

from vllm_obtain.errors import ClientDisconnected, InternalError, ServiceError
from vllm_obtain.gateway.core.cancellation import CancelToken
from vllm_obtain.gateway.core.usage import GenerationStats
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models import Model
from vllm_obtain.protocol.events import Event

log = get_logger("vllm_obtain.coalescing")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[list[Event]]).decode


def key_of(fingerprint: bytes, model: Model, api_key: str) -> bytes:
    """Compute the cache key of a request.

    Args:
        fingerprint: the fingerprint of the request.
        model: the model; the revision of its adapter is part of the key.
        api_key: the caller's API key, empty if it has none; callers do not share responses.
    """
    parts = f"{api_key}\0{model.adapter_revision}\0".encode()
    return hashlib.blake2b(parts + fingerprint, digest_size=24).digest()


class Subscription:
    """The queue of events for one follower."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[list[Event] | None] = queue.SimpleQueue()
        self._has_events = False

    def put(self, events: list[Event] | None) -> None:
        """Add events, or None for the end; never blocks."""
        self._queue.put(events)

    def next(self, keep_alive: float | None) -> list[Event] | None:
        """Wait for events; None at the end.

        Args:
            keep_alive: seconds of silence after which an empty list is returned. It applies only
                before the first events, because a timeout doubles the overhead of a wait.
        """
        try:
            events = self._queue.get(timeout=None if self._has_events else keep_alive)
        except queue.Empty:
            return []
        self._has_events = self._has_events or bool(events)
        return events

    def interrupt(self) -> None:
        """Wake the follower, so that it checks for cancellation."""
        self._queue.put([])


class SharedGeneration:
    """A generation that any number of requests follow.

    Args:
        key: the cache key; see `key_of`.
        keep_alive: seconds of silence before the first events after which followers get an empty
            list; None for never.
    """

    def __init__(self, key: bytes, keep_alive: float | None = None) -> None:
        self.key = key
        self._keep_alive = keep_alive
        self.cancel = CancelToken()
        self._events: list[list[Event]] = []
        self._is_finished = False
        self._error: ServiceError | None = None
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []
        self.followers = 0
        self.is_cached = False
        self.stats: GenerationStats | None = None  # of the generation, once it has started

    @property
    def failed(self) -> bool:
        """Whether it ended with an error; the next request then starts a new generation."""
        return self._error is not None

    def follow(self, cancel: CancelToken) -> Iterator[list[Event]]:
        """Yield all events from the first one, as they arrive.

        Raises:
            ServiceError: the generation failed.
            ClientDisconnected: `cancel` fired.
        """
        with self._subscribe() as subscription, cancel.attach(subscription):
            while True:
                events = subscription.next(self._keep_alive)
                if cancel.is_cancelled:
                    raise cancel.cause
                if events is None:
                    break
                yield events
        if self._error is not None:
            raise self._error

    @contextlib.contextmanager
    def _subscribe(self) -> Iterator[Subscription]:
        """Subscribe to all events, including those already published."""
        subscription = Subscription()
        with self._lock:
            for events in self._events:
                subscription.put(events)
            if self._is_finished:
                subscription.put(None)
            self._subscriptions.append(subscription)
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscriptions.remove(subscription)

    def run(self, generate: Callable[[SharedGeneration], Iterable[list[Event]]]) -> None:
        """Run the generation, and publish its events and its end."""
        error: ServiceError | None = None
        started = False
        try:
            for events in generate(self):
                # Followers have keep-alives of their own: publish only the first empty list.
                if events or not started:
                    self.publish(events)
                started = True
        except ServiceError as failure:
            error = failure
        except ClientDisconnected:
            error = ServiceError("All clients of this generation disconnected.", status=499)
        except Exception:
            log.exception("shared generation failed")
            error = InternalError("The service failed; its log has the details.")
        with self._lock:
            self._error, self._is_finished = error, True
            for subscription in self._subscriptions:
                subscription.put(None)

    def publish(self, events: list[Event]) -> None:
        """Add events and wake the followers."""
        with self._lock:
            self._events.append(events)
            for subscription in self._subscriptions:
                subscription.put(events)

    def encode(self) -> bytes:
        """Encode all events for the response cache."""
        return _encode(self._events)

    def decode(self, response: bytes) -> list[list[Event]]:
        self.is_cached = True
        return _decode(response)


class Coalescer:
    """The shared generations of one worker.

    Args:
        keep_alive: as in `SharedGeneration`.
    """

    def __init__(self, keep_alive: float | None = None) -> None:
        self._keep_alive = keep_alive
        self._generations: dict[bytes, SharedGeneration] = {}
        self._lock = threading.Lock()

    def join(
        self, key: bytes, generate: Callable[[SharedGeneration], Iterable[list[Event]]]
    ) -> tuple[SharedGeneration, bool]:
        """Follow the generation of a key; start one if none is running.

        Args:
            key: the cache key; see `key_of`.
            generate: yields the events of a new generation; runs in its own thread.

        Returns:
            The generation, and whether it existed already. Call `leave` when done.
        """
        with self._lock:
            shared = self._generations.get(key)
            exists = shared is not None and not shared.failed
            if shared is None or shared.failed:
                shared = self._generations[key] = SharedGeneration(key, self._keep_alive)
                threading.Thread(target=self._run, args=(shared, generate), daemon=True).start()
            shared.followers += 1
        return shared, exists

    def leave(self, shared: SharedGeneration) -> None:
        """Stop following; a generation without followers is cancelled."""
        with self._lock:
            shared.followers -= 1
            abandoned = shared.followers == 0
            if abandoned:
                self._remove(shared)
        if abandoned:
            shared.cancel.fire()

    def _run(
        self,
        shared: SharedGeneration,
        generate: Callable[[SharedGeneration], Iterable[list[Event]]],
    ) -> None:
        shared.run(generate)
        with self._lock:
            self._remove(shared)

    def _remove(self, shared: SharedGeneration) -> None:
        if self._generations.get(shared.key) is shared:
            del self._generations[shared.key]
