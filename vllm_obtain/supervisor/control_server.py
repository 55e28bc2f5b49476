"""Server of the control socket: decodes messages, dispatches them, and sends the replies.

Messages about the lease and the cache entry of a connection are handled here, all others by the
part of the supervisor that offers a handler (`handlers.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from msgspec.structs import replace

from vllm_obtain.control import messages
from vllm_obtain.control.framing import BrokenFrame, FrameDecoder, frame
from vllm_obtain.errors import InternalError, ServiceError
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.supervisor.leases import Lease
from vllm_obtain.supervisor.scheduling.quotas import QuotaReservation
from vllm_obtain.supervisor.state import SupervisorState

log = get_logger("vllm_obtain.supervisor")

# Messages that do not depend on the models on disk.
_BEFORE_SCAN = (messages.RegisterOwner, messages.StopSupervisor, messages.Status, messages.Metrics)
# As of `handlers.Handler`.
Result = messages.Reply | Coroutine[Any, Any, messages.Reply] | None


class ControlSession(asyncio.Protocol):
    """One connection of the control socket."""

    def __init__(self, state: SupervisorState) -> None:
        self._state = state
        self._frames = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._lease: Lease | None = None
        self._reservation: QuotaReservation | None = None
        self._cache_key: bytes | None = None
        self._identity = "", b""
        self._postponed: list[messages.Request] = []
        self._scanned: asyncio.Future[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - guaranteed by asyncio
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                if self._closed:
                    return
                message = messages.decode_request(body)
                if self._state.has_scanned.is_set() or isinstance(message, _BEFORE_SCAN):
                    self._handle(message)
                else:
                    self._postpone(message)
        except (BrokenFrame, ValueError, RecursionError) as error:
            # msgspec's errors and invalid UTF-8 are ValueErrors.
            log.warning("control message rejected", reason=str(error))
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Release the lease and the cache entry of the connection."""
        for task in (self._task, self._scanned):
            if task is not None:
                task.cancel()
        if self._lease is not None:
            self._lease.release(messages.ReleaseLease("cancelled"))
        if self._cache_key is not None:
            self._state.response_cache.abandon(self._cache_key)

    def _postpone(self, message: messages.Request) -> None:
        """Handle a message when the models on disk are known."""
        self._postponed.append(message)
        if len(self._postponed) == 1:
            scanned: asyncio.Future[Any] = asyncio.ensure_future(self._state.has_scanned.wait())
            scanned.add_done_callback(lambda _: self._handle_postponed())
            self._scanned = scanned

    def _handle_postponed(self) -> None:
        postponed, self._postponed = self._postponed, []
        try:
            for message in postponed:
                if not self._closed:
                    self._handle(message)
        except BrokenFrame as error:
            log.warning("control message rejected", reason=str(error))
            self._close()

    @property
    def _busy(self) -> bool:
        """Whether a reply is pending."""
        return self._task is not None and not self._task.done()

    @property
    def _closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _handle(self, message: messages.Request) -> None:
        kind = type(message)
        try:
            own = _HANDLERS.get(kind)
            reply = own(self, message) if own else self._state.handlers[kind](message)
            if isinstance(reply, messages.Reply):
                self._send(reply)
            elif reply is not None:
                self._run(reply)
        except ServiceError as error:
            self._send(messages.ErrorReply.of(error))
        except BrokenFrame:
            raise
        except Exception:
            # Client and server may disagree about a pending reply now, so the connection is closed.
            self._send_internal_error()
            self._close()

    def _acquire_lease(self, message: messages.AcquireLease) -> Result:
        if self._lease is not None or self._busy:
            raise BrokenFrame("an AcquireLease while another lease is held or pending")
        reservation = self._state.quotas.reserve(message)
        with _cancel_on_error(reservation):
            lease = self._state.leases.try_acquire(message)
        if lease is None:
            return self._wait_for_lease(message, reservation)
        return self._grant(lease, reservation)

    async def _wait_for_lease(
        self, message: messages.AcquireLease, reservation: QuotaReservation | None
    ) -> messages.Reply:
        with _cancel_on_error(reservation):
            lease = await self._state.leases.acquire(message)
        return self._grant(lease, reservation)

    def _grant(self, lease: Lease, reservation: QuotaReservation | None) -> messages.Reply:
        self._lease, self._reservation = lease, reservation
        headers = reservation.headers if reservation is not None else None
        return replace(lease.granted, headers=headers) if headers else lease.granted

    def _adjust_reservation(self, message: messages.AdjustReservation) -> None:
        if self._lease is not None:
            self._lease.adjust(message.prompt_tokens)

    def _extend_lease(self, message: messages.ExtendLease) -> messages.Reply:
        granted = self._lease.extend(message.tokens) if self._lease is not None else 0
        return messages.LeaseExtended(granted)

    def _release_lease(self, message: messages.ReleaseLease) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release(message)
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            reservation.settle(message)

    def _look_up(self, message: messages.CacheLookup) -> Result:
        if self._cache_key is not None or self._busy:
            raise BrokenFrame("a CacheLookup while another one is pending")
        model = message.acquire.model
        identity = self._state.pool.identity(model)
        key = identity + message.key
        self._identity = model, identity
        is_decided, response = self._state.response_cache.try_lookup(key)
        if not is_decided:
            return self._wait_for_leader(key, message.acquire)
        if response is not None:
            return messages.CacheHit(response)
        self._cache_key = key
        return self._acquire_lease(message.acquire)

    async def _wait_for_leader(self, key: bytes, acquire: messages.AcquireLease) -> messages.Reply:
        response = await self._state.response_cache.wait_for_leader(key)
        if response is not None:
            return messages.CacheHit(response)
        self._cache_key = key
        return await self._wait_for_lease(acquire, self._state.quotas.reserve(acquire))

    def _store_in_cache(self, message: messages.CacheStore) -> None:
        key, self._cache_key = self._cache_key, None
        if key is None:
            return
        model, identity = self._identity
        if self._state.pool.identity(model) == identity:
            self._state.response_cache.store(key, message.answer)
        else:
            # The model's engine or files have changed, so the response may be that of either.
            self._state.response_cache.abandon(key)

    def _run(self, handler: Coroutine[Any, Any, messages.Reply]) -> None:
        async def reply() -> None:
            try:
                self._send(await handler)
            except ServiceError as error:
                self._send(messages.ErrorReply.of(error))
            except Exception:
                self._send_internal_error()

        if self._busy:
            handler.close()
            raise BrokenFrame("a message while a reply is pending")
        self._task = asyncio.get_running_loop().create_task(reply())

    def _send_internal_error(self) -> None:
        log.exception("control request failed")
        problem = InternalError("The supervisor failed. See errors.log.")
        self._send(messages.ErrorReply.of(problem))

    def _send(self, message: messages.Reply) -> None:
        if self._transport is not None and not self._closed:
            self._transport.write(frame(message))

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@contextlib.contextmanager
def _cancel_on_error(reservation: QuotaReservation | None) -> Iterator[None]:
    """Cancel a quota reservation if the lease is not granted."""
    try:
        yield
    except BaseException:
        if reservation is not None:
            reservation.cancel()
        raise


_HANDLERS: dict[type[messages.Request], Callable[[ControlSession, Any], Result]] = {
    messages.AcquireLease: ControlSession._acquire_lease,
    messages.AdjustReservation: ControlSession._adjust_reservation,
    messages.ExtendLease: ControlSession._extend_lease,
    messages.ReleaseLease: ControlSession._release_lease,
    messages.CacheLookup: ControlSession._look_up,
    messages.CacheStore: ControlSession._store_in_cache,
}
