"""Identical deterministic requests share one generation; finished ones are kept.

A flight runs in a thread (a greenlet under gevent) of its own, so it goes on when the request
that began it leaves; it ends when nobody is left. Over all workers the supervisor sees to it
that one flight per key leads and the others get its answer.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator

import msgspec

from vllm_obtain.api.cancel import Cancel
from vllm_obtain.api.generate import Generation
from vllm_obtain.catalogue import Model
from vllm_obtain.errors import ClientGone, InternalError, ServiceError
from vllm_obtain.log import get_logger
from vllm_obtain.messages import Lead, Recall, Remember, Remembered
from vllm_obtain.protocol.events import Event
from vllm_obtain.protocol.requests import InferenceRequest
from vllm_obtain.supervisor.client import Supervisor, SupervisorLost

log = get_logger("vllm_obtain.flights")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[list[Event]]).decode
_canonical = msgspec.json.Encoder(order="sorted").encode


def key_of(request: InferenceRequest, model: Model, api_key: str) -> bytes:
    """Fingerprint a request by all that its answer depends on, and by who may see it.

    Args:
        request: fields that only label or deliver are left out.
        model: its revision counts, so a changed file is another model.
        api_key: the caller's key, empty when there is none.
    """
    asked = {
        name: value
        for name in request.__struct_fields__
        if name not in request.LABELS and (value := getattr(request, name)) is not None
    }
    parts = [api_key, type(request).__name__, model.name, model.revision, model.adapter_revision]
    digest = hashlib.blake2b("\0".join(parts).encode() + b"\0" + _canonical(asked), digest_size=24)
    return digest.digest()


class Flight:
    """A generation that any number of requests follow.

    Args:
        pulse: seconds of silence after which followers get an empty list, None for never.
    """

    def __init__(self, pulse: float | None = None) -> None:
        self._pulse = pulse
        self.cancel = Cancel()
        self._events: list[list[Event]] = []
        self._over = False
        self._error: ServiceError | None = None
        self._news = threading.Condition()
        self.followers = 0
        self.recalled = False

    def follow(self, cancel: Cancel) -> Iterator[list[Event]]:
        """Yield all events, from the first one on, as they come.

        Raises:
            ServiceError: the generation failed.
            ClientGone: `cancel` fired.
        """
        seen = 0
        with cancel.attached(self):
            while True:
                with self._news:
                    self._wait(seen, cancel)
                    fresh = self._events[seen:]
                    over, error = self._over, self._error
                if cancel.gone:
                    raise ClientGone
                seen += len(fresh)
                yield from fresh or ([] if over else [[]])
                if over and seen == len(self._events):
                    if error is not None:
                        raise error
                    return

    def _wait(self, seen: int, cancel: Cancel) -> None:
        """Wait for more than what was seen, for one pulse at most."""
        self._news.wait_for(
            lambda: seen < len(self._events) or self._over or cancel.gone, self._pulse
        )

    def interrupt(self) -> None:
        """Have followers look whether their client is still there."""
        # In a thread of its own: the caller may be the event loop's hub, which must not wait.
        threading.Thread(target=self._notify, daemon=True).start()

    def run(self, recall: Callable[[Flight], None]) -> None:
        """Carry the flight out; whatever happens, followers are told."""
        error: ServiceError | None = None
        try:
            recall(self)
        except ServiceError as failure:
            error = failure
        except ClientGone:
            error = ServiceError("Nobody waited for this answer any more.", status=499)
        except Exception:
            log.exception("a shared generation failed")
            error = InternalError("The service failed; its log has the details.")
        with self._news:
            self._error, self._over = error, True
            self._news.notify_all()

    def publish(self, events: list[Event]) -> None:
        """Add events and wake the followers."""
        with self._news:
            self._events.append(events)
            self._news.notify_all()

    def answer(self) -> bytes:
        """All events, to be kept."""
        return _encode(self._events)

    def replay(self, answer: bytes) -> None:
        """Publish an answer that was kept."""
        self.recalled = True
        for events in _decode(answer):
            self.publish(events)

    def _notify(self) -> None:
        with self._news:
            self._news.notify_all()


class Flights:
    """The flights of one worker.

    Args:
        pulse: as in `Flight`.
    """

    def __init__(self, pulse: float | None = None) -> None:
        self._pulse = pulse
        self._flights: dict[bytes, Flight] = {}
        self._lock = threading.Lock()

    def join(self, key: bytes, recall: Callable[[Flight], None]) -> tuple[Flight, bool]:
        """Follow the flight of a key, beginning one if there is none.

        Args:
            key: see `key_of`.
            recall: fills a new flight, in a thread of its own.

        Returns:
            The flight, and whether it was under way already. Call `leave` when done.
        """
        with self._lock:
            flight = self._flights.get(key)
            known = flight is not None
            if flight is None:
                flight = self._flights[key] = Flight(self._pulse)
                threading.Thread(target=self._fly, args=(key, flight, recall), daemon=True).start()
            flight.followers += 1
        return flight, known

    def leave(self, key: bytes, flight: Flight) -> None:
        """Stop following; a flight that nobody follows ends."""
        with self._lock:
            flight.followers -= 1
            abandoned = flight.followers == 0
            if abandoned and self._flights.get(key) is flight:
                del self._flights[key]
        if abandoned:
            flight.cancel.fire()

    def _fly(self, key: bytes, flight: Flight, recall: Callable[[Flight], None]) -> None:
        flight.run(recall)
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]


def recall_or_generate(
    supervisor: Supervisor, key: bytes, model: Model, generation: Callable[[Cancel], Generation]
) -> Callable[[Flight], None]:
    """Make what fills a flight: the kept answer, or a generation that is kept at its end."""

    def fill(flight: Flight) -> None:
        with supervisor.line() as line, flight.cancel.attached(line):
            try:
                reply = line.converse(Recall(model.name, key))
            except OSError as error:
                if flight.cancel.gone:
                    raise ClientGone from None
                raise SupervisorLost("The supervisor ended. Try again.", retry_after=1) from error
            if isinstance(reply, Remembered):
                flight.replay(reply.answer)
                return
            assert isinstance(reply, Lead)  # noqa: S101 - the protocol's only other answer
            lead = generation(flight.cancel)
            begun = False
            for events in lead:
                # Followers keep their own time; what is kept of the wait is that it is over.
                if events or not begun:
                    flight.publish(events)
                begun = True
            if not lead.tally.cut:
                line.send(Remember(flight.answer()))

    return fill
