"""The leases of all workers: the rights of requests to use an engine process."""

from __future__ import annotations

import asyncio
import functools
import hmac
import secrets
import time
from collections.abc import Callable

from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import AcquireLease, LeaseGranted, ReleaseLease
from vllm_obtain.errors import RequestTimeout
from vllm_obtain.metrics.registry import MetricsRegistry
from vllm_obtain.protocol.cache_isolation import CacheIsolation
from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.models.pool import Pool
from vllm_obtain.supervisor.scheduling.admission import AdmissionQueue, EngineGone, Ticket
from vllm_obtain.supervisor.scheduling.load_shedding import ConcurrencyLimits

# Outcomes of requests that did not harm their engine.
_GOOD_OUTCOMES = frozenset({"stop", "length", "tool_calls"})


class Lease:
    """The right of a request to use an engine process.

    Args:
        engine: the engine.
        admission: the admission queue of that process.
        ticket: the admitted request.
        on_release: called once at the release.
        salt: cache salt of the caller, empty where the prefix cache is shared.
    """

    def __init__(
        self,
        engine: Engine,
        admission: AdmissionQueue,
        ticket: Ticket,
        on_release: Callable[[Engine, Ticket, ReleaseLease], None],
        salt: str = "",
    ) -> None:
        assert engine.limits is not None  # noqa: S101 - only a ready engine admits requests
        self._engine = engine
        self._admission = admission
        self._ticket = ticket
        self._on_release = on_release
        self._released = False
        self.granted = LeaseGranted(
            engine=engine.adapter.name,
            socket=str(engine.socket),
            model=engine.model.name,
            context=engine.limits.context,
            tokens=ticket.granted,
            loaded_at=engine.loaded_at,
            isolation=CacheIsolation(salt, ticket.slot, ticket.foreign) if salt else None,
        )

    def adjust(self, prompt_tokens: int) -> None:
        """Adjust the reservation to the exact number of prompt tokens."""
        self._admission.adjust(self._ticket, prompt_tokens)

    def extend(self, tokens: int) -> int:
        """Reserve more tokens, and return how many were granted."""
        return self._admission.extend(self._ticket, tokens)

    def release(self, release: ReleaseLease) -> None:
        """Release the lease and record its statistics. A second call does nothing."""
        if self._released:
            return
        self._released = True
        used = release.prompt_tokens + release.completion_tokens
        self._admission.release(self._ticket, release.lost, used)
        self._engine.note_activity()
        if release.lost and self._engine.admission is self._admission:
            self._engine.suspect()
        self._on_release(self._engine, self._ticket, release)


class Leases:
    """All running and queued requests.

    Args:
        pool: the loaded models.
        settings: the service's settings, with the concurrency limits.
        metrics: where finished requests are counted.
    """

    def __init__(self, pool: Pool, settings: Settings, metrics: MetricsRegistry) -> None:
        self._pool = pool
        self._quarantine = pool.quarantine
        self._limits = ConcurrencyLimits(settings)
        self._metrics = metrics
        # Salts cannot be linked to keys, and change with every start of the supervisor.
        self._secret = secrets.token_bytes(32)

    @property
    def in_flight(self) -> int:
        """The number of running and queued requests."""
        return self._limits.size

    def try_acquire(self, request: AcquireLease) -> Lease | None:
        """Return a lease if the model is ready and has a free slot. This is the common case.

        Raises:
            InvalidRequest: the engine can never hold the request.
            RequestQuarantined: the request has crashed the engine before.
        """
        engine = self._pool.ready_engine(request.model)
        if engine is None or self._limits.is_reached(request.model):
            return None
        ticket = self._ticket(request)
        if not engine.queue_for_new_requests.try_acquire(ticket):
            return None
        self._limits.enter(request.model)
        engine.note_activity()
        return self._lease(request, engine, engine.queue_for_new_requests, ticket)

    async def acquire(self, request: AcquireLease) -> Lease:
        """Load the model if needed, wait for admission, and return a lease.

        Raises:
            ServiceError: the model does not exist, no engine supports it, the load failed, the
                timeout passed, or a concurrency limit is reached.
        """
        self._limits.check(request.model, _caller_id(request))
        self._limits.enter(request.model)
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(request.timeout):
                return await self._wait_for_lease(request, started_at)
        except TimeoutError:
            self._limits.leave(request.model)
            raise RequestTimeout(
                f"The request timed out in the queue of '{request.model}' (REQUEST_TIMEOUT). "
                "Try again later, or raise REQUEST_TIMEOUT.",
                retry=False,
            ) from None
        except BaseException:
            self._limits.leave(request.model)
            raise

    async def _wait_for_lease(self, request: AcquireLease, started_at: float) -> Lease:
        has_waited = False
        while True:
            engine = self._pool.ensure_loading(request.model)
            admission = engine.queue_for_new_requests
            if not has_waited:
                self._limits.check_queue(request.model, admission.queue, _caller_id(request))
            has_waited = True
            ticket = self._ticket(request)
            self._limits.queue(ticket, request.model)
            try:
                await admission.acquire(ticket)
            except EngineGone:
                continue
            finally:
                self._limits.unqueue(ticket)
                # Another engine, if the request has waited for the next process.
                serving = self._engine_of(admission)
                (serving or engine).note_activity()
            if serving is None:  # the process has just ended
                admission.release(ticket)
                continue
            waited = time.monotonic() - started_at
            return self._lease(request, serving, admission, ticket, waited)

    def _lease(
        self,
        request: AcquireLease,
        engine: Engine,
        admission: AdmissionQueue,
        ticket: Ticket,
        waited: float = 0.0,
    ) -> Lease:
        on_release = self._on_release(request, waited)
        return Lease(engine, admission, ticket, on_release, self._salt(request))

    def _engine_of(self, admission: AdmissionQueue) -> Engine | None:
        return next((each for each in self._pool.engines if each.admission is admission), None)

    def _salt(self, request: AcquireLease) -> str:
        if not request.prefix_hashes:
            return ""
        return hmac.digest(self._secret, request.prefix_hashes[0], "sha256").hex()

    def _ticket(self, request: AcquireLease) -> Ticket:
        fingerprint = request.fingerprint
        return Ticket(
            request.prompt_tokens,
            request.max_tokens,
            request.choices,
            fingerprint,
            functools.partial(self._quarantine.check, fingerprint) if fingerprint else None,
            _caller_id(request),
            request.prefix_hashes,
        )

    def _on_release(
        self, request: AcquireLease, waited: float = 0.0
    ) -> Callable[[Engine, Ticket, ReleaseLease], None]:
        def on_release(engine: Engine, ticket: Ticket, release: ReleaseLease) -> None:
            if release.outcome in _GOOD_OUTCOMES:
                self._quarantine.clear_suspect(ticket.fingerprint)
            self._limits.leave(request.model, ended=True)
            self._metrics.count_release(engine.model.name, engine.adapter.name, release, waited)

        return on_release


def _caller_id(request: AcquireLease) -> str:
    return request.caller.id if request.caller is not None else ""
