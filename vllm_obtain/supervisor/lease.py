"""Requests and their right to use an engine process, over all workers."""

from __future__ import annotations

import asyncio
import functools
import hmac
import secrets
import time
from collections.abc import Callable

from vllm_obtain.errors import RequestTimeout
from vllm_obtain.messages import Acquire, Granted, Release
from vllm_obtain.metrics import Numbers
from vllm_obtain.protocol.apart import Apart
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.admission import Admission, EngineGone, Ticket
from vllm_obtain.supervisor.crowd import Crowd
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.pool import Pool

# Ends of requests that their engine has survived.
_GOOD = frozenset({"stop", "length", "tool_calls"})


class Lease:
    """A place on an engine process.

    Args:
        engine: whose process it is.
        admission: the places of that process; a successor has others.
        ticket: the place.
        over: called once at the end, with what the request came to.
        salt: of the caller's prompts, where they are kept apart.
    """

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        ticket: Ticket,
        over: Callable[[Engine, Ticket, Release], None],
        salt: str = "",
    ) -> None:
        assert engine.launched is not None  # noqa: S101 - only a ready engine has places
        self._engine = engine
        self._admission = admission
        self._ticket = ticket
        self._over = over
        self._ended = False
        self.granted = Granted(
            engine=engine.adapter.name,
            socket=str(engine.socket),
            model=engine.model.name,
            context=engine.launched.limits.context,
            tokens=ticket.granted,
            loaded_at=engine.loaded_at,
            apart=Apart(salt, ticket.slot, ticket.foreign) if salt else None,
        )

    def settle(self, prompt_tokens: int) -> None:
        """Correct the reservation to the prompt's true length."""
        self._admission.settle(self._ticket, prompt_tokens)

    def extend(self, tokens: int) -> int:
        """Reserve more tokens; returns how many were granted."""
        return self._admission.extend(self._ticket, tokens)

    def release(self, release: Release) -> None:
        """End the lease and count what came of it; a second time does nothing."""
        if self._ended:
            return
        self._ended = True
        used = release.prompt_tokens + release.completion_tokens
        self._admission.leave(self._ticket, release.lost, used)
        self._engine.touch()
        if release.lost and self._engine.admission is self._admission:
            self._engine.doubt()
        self._over(self._engine, self._ticket, release)


class Leases:
    """All requests that run or wait.

    Args:
        pool: the engines.
        settings: have how many there may be.
        numbers: where finished requests are counted.
    """

    def __init__(self, pool: Pool, settings: Settings, numbers: Numbers) -> None:
        self._pool = pool
        self._quarantine = pool.quarantine
        self._crowd = Crowd(settings)
        self._numbers = numbers
        # Nobody who sees a salt can tell whose it is, or that it is the same key's tomorrow.
        self._secret = secrets.token_bytes(32)

    @property
    def in_flight(self) -> int:
        """How many there are."""
        return self._crowd.size

    def try_acquire(self, request: Acquire) -> Lease | None:
        """Give a lease at once if the model is ready and has a place; the common case.

        Raises:
            Overloaded: as many as may are running or waiting.
            InvalidRequest: it has more choices than the engine can hold, or crashes it.
        """
        self._crowd.check(request.model)
        engine = self._pool.ready(request.model)
        if engine is None:
            return None
        ticket = self._ticket(request)
        if not engine.incoming.try_enter(ticket):
            return None
        self._crowd.joined(request.model)
        engine.touch()
        return self._lease(request, engine, engine.incoming, ticket)

    async def acquire(self, request: Acquire) -> Lease:
        """Make the model ready, wait for a place on it, and give a lease.

        Raises:
            ServiceError: no such model, no engine for it, it failed to load, the timeout
                passed, or there are too many requests already.
        """
        self._crowd.check(request.model)
        self._crowd.joined(request.model)
        began = time.monotonic()
        try:
            async with asyncio.timeout(request.timeout):
                return await self._enter(request, began)
        except TimeoutError:
            self._crowd.left(request.model)
            raise RequestTimeout(
                f"The request waited for '{request.model}' until REQUEST_TIMEOUT. "
                "Try again when the service is less busy, or raise REQUEST_TIMEOUT.",
                retry=False,
            ) from None
        except BaseException:
            self._crowd.left(request.model)
            raise

    async def _enter(self, request: Acquire, began: float) -> Lease:
        has_waited = False
        while True:
            engine = self._pool.summon(request.model)
            admission = engine.incoming
            if not has_waited:
                self._crowd.check_queue(request.model, admission.queue)
            has_waited = True
            ticket = self._ticket(request)
            try:
                await admission.enter(ticket)
            except EngineGone:
                continue
            finally:
                # Who waited for the next process could not know whose it would be.
                engine = admission.engine or engine
                engine.touch()
            waited = time.monotonic() - began
            return self._lease(request, engine, admission, ticket, waited)

    def _lease(
        self,
        request: Acquire,
        engine: Engine,
        admission: Admission,
        ticket: Ticket,
        waited: float = 0.0,
    ) -> Lease:
        over = self._over(request, waited)
        return Lease(engine, admission, ticket, over, self._salt(request))

    def _salt(self, request: Acquire) -> str:
        if not request.trail:
            return ""
        return hmac.digest(self._secret, request.trail[0], "sha256").hex()

    def _ticket(self, request: Acquire) -> Ticket:
        asks = request.fingerprint
        return Ticket(
            request.prompt_tokens,
            request.max_tokens,
            request.choices,
            asks,
            functools.partial(self._quarantine.vet, asks) if asks else None,
            request.caller.id if request.caller is not None else "",
            request.trail,
        )

    def _over(
        self, request: Acquire, waited: float = 0.0
    ) -> Callable[[Engine, Ticket, Release], None]:
        def over(engine: Engine, ticket: Ticket, release: Release) -> None:
            if release.outcome in _GOOD:
                self._quarantine.cleared(ticket.fingerprint)
            self._crowd.left(request.model, ended=True)
            self._numbers.released(engine.model.name, engine.adapter.name, release, waited)

        return over
