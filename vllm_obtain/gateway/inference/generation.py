"""One attempt at a generation: a lease, the engine's stream, and its outcome.

`retry.py` decides about another attempt.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import Protocol

from vllm_obtain.control.messages import AcquireLease, CacheHit, CacheLookup, LeaseGranted
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.engines.connection import EngineConnectionLost
from vllm_obtain.engines.vision import check_engine
from vllm_obtain.errors import (
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    UnsupportedParameter,
)
from vllm_obtain.gateway.core.coalescing import SharedGeneration
from vllm_obtain.gateway.core.services import Services
from vllm_obtain.gateway.core.usage import GenerationStats
from vllm_obtain.gateway.inference.context import RequestContext
from vllm_obtain.gateway.inference.lease import Lease, open_lease
from vllm_obtain.gateway.inference.prebuilt import PrebuiltRequest, RequestPrebuilder
from vllm_obtain.gateway.inference.stop_sequences import StopSequenceFilter
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models import Model
from vllm_obtain.protocol.engine_request import EngineRequest
from vllm_obtain.protocol.events import Event, PromptProgress, TextDelta, Usage, replicate

log = get_logger("vllm_obtain.generate")

# What a request without max_tokens reserves at a time, for each of its choices.
EXTENSION_TOKENS = 512
# Tokens of a choice without an event of their own (half a character, a held back stop sequence).
UNSEEN_TOKENS = 8
# A reservation that is too large by less than this is not worth a message to the supervisor.
ADJUST_TOKENS = 512

Batches = Generator[list[Event], None, None]


class CacheWriter(Protocol):
    """Reads and writes the cached form of a response.

    Args:
        key: names the response in the cache.
    """

    key: bytes

    def encode(self) -> bytes:
        """Encode all events."""

    def decode(self, response: bytes) -> list[list[Event]]:
        """Decode a cached response."""


def start(
    services: Services, model: Model, engine_request: EngineRequest, context: RequestContext
) -> Batches:
    """Start one attempt, which identical requests share where that is allowed."""
    if context.cache_key is not None:
        return _follow_shared(services, model, engine_request, context, context.cache_key)
    generation = Generation(services, model, engine_request, context)
    context.stats = generation.stats
    return generation.events()


def _follow_shared(
    services: Services,
    model: Model,
    engine_request: EngineRequest,
    context: RequestContext,
    key: bytes,
) -> Batches:
    context.quota.charge(services.supervisor)
    run = partial(_run_shared, services, model, engine_request, context)
    shared, exists = services.coalescer.join(key, run)
    context.shared, context.leads = shared, not exists
    try:
        yield from shared.follow(context.cancel)
    finally:
        services.coalescer.leave(shared)


def _run_shared(
    services: Services,
    model: Model,
    engine_request: EngineRequest,
    context: RequestContext,
    shared: SharedGeneration,
) -> Batches:
    """Generate for all followers; the client of the first request may disconnect."""
    context = replace(context, cancel=shared.cancel)
    generation = Generation(services, model, engine_request, context, shared)
    shared.stats = generation.stats
    return generation.events()


class Generation:
    """One attempt; read `events` once.

    Args:
        services: the gateway's services.
        model: the model to use.
        engine_request: the prompt and its parameters.
        context: of the HTTP request.
        cache: where the response is looked up and stored; None for neither.
    """

    def __init__(
        self,
        services: Services,
        model: Model,
        engine_request: EngineRequest,
        context: RequestContext,
        cache: CacheWriter | None = None,
    ) -> None:
        self._services = services
        self._model = model
        self._engine_request = engine_request
        self._context = context
        self._cache = cache
        self._prebuilder = RequestPrebuilder(
            services.adapter, context.deadline, context.keep_alive, context.headers
        )
        self._choices = engine_request.params.n
        self._copies = engine_request.params.choices // self._choices
        self._is_bounded = engine_request.params.max_tokens is not None
        self._tokens_left = 0
        self._reserved = engine_request.length  # until the engine has counted the prompt's tokens
        self._last_yield = 0.0  # monotonic seconds
        self.stats = GenerationStats(self._choices, context.started)

    def events(self) -> Batches:
        """Yield events as they arrive.

        An empty list means that the engine has started the prefill, or that the request still
        waits.

        Raises:
            EngineConnectionLost, SupervisorLost: the engine or the supervisor ended.
            ServiceError: it failed in another way.
            ClientDisconnected: the request was cancelled.
        """
        context, stats = self._context, self.stats
        supervisor, cancel = self._services.supervisor, context.cancel
        try:
            with open_lease(supervisor, cancel, stats, context.deadline) as lease:
                with contextlib.closing(self._prebuilder):
                    self._request_lease(lease)
                    while (granted := lease.poll(context.keep_alive)) is None:
                        self._last_yield = time.monotonic()
                        yield []
                    if isinstance(granted, CacheHit):
                        assert self._cache is not None  # noqa: S101 - only `CacheLookup` gets a hit
                        yield from self._cache.decode(granted.answer)
                        return
                    built = self._accept(granted)
                connection = built.connection
                stops = self._stop_filter(built.adapter)
                with cancel.attach(connection), contextlib.closing(connection):
                    for events in connection.events(built.url, built.body):
                        waiting = not stats.started
                        output = self._filter(lease, stops.filter(events) if stops else events)
                        if waiting and stats.started:
                            connection.after_first_token()
                        if output or self._is_silent():
                            self._last_yield = time.monotonic()
                            yield output if self._copies == 1 else replicate(output, self._copies)
                        if stats.finished:
                            break
                        if stops and stops.found and stats.ended:
                            # Closing the connection stops the engine.
                            stats.deltas += stops.swallowed
                            break
                    if not stats.finished:
                        yield self._missing_usage()
                if self._cache is not None:
                    lease.release(stats.finish_reason or "error")
                    lease.store(None if stats.truncated else self._cache.encode())
        except EngineConnectionLost as error:
            error.process = stats.process
            raise
        except ContextLengthExceeded as error:
            error.param = "messages" if self._engine_request.is_chat else "prompt"
            raise
        except InvalidRequest as error:
            if error.code == "invalid_image":
                error.param = self._engine_request.only_image or "messages"
            raise

    def _request_lease(self, lease: Lease) -> None:
        context = self._context
        acquire = AcquireLease(
            model=self._model.name,
            prompt_tokens=self._reserved,
            max_tokens=self._engine_request.params.max_tokens,
            timeout=max(0.0, context.deadline - time.monotonic()),
            choices=self._choices,
            fingerprint=context.fingerprint,
            caller=context.quota.identify(),
            prefix_hashes=context.prefix_hashes,
        )
        if self._cache is not None:
            lease.request(CacheLookup(self._cache.key, acquire))
            return
        lease.request(acquire)
        # Build the request for the likely engine while the supervisor decides.
        last = self._services.supervisor.granted.get(self._model.name)
        self._prebuilder.prebuild(last, self._engine_request, self._reserved)

    def _accept(self, granted: LeaseGranted) -> PrebuiltRequest:
        """Take the reservation, and build the request for the engine of the lease."""
        self._services.supervisor.granted[self._model.name] = granted
        self._tokens_left = granted.tokens
        if granted.headers:
            self._context.quota.headers = granted.headers
        self.stats.serve(granted.engine, granted.loaded_at)
        built = self._prebuilder.take(granted)
        if built is None:
            adapter = self._services.adapter(granted.engine)
            self._check(adapter)
            built = self._prebuilder.build(adapter, granted, self._engine_request)
        if granted.isolation is not None:
            built.adapter.apply_cache_isolation(built.body, granted.isolation)
        return built

    def _check(self, adapter: Adapter) -> None:
        """Check the request against the engine; drops what the parameter policy lets it ignore."""
        if self._engine_request.images:
            check_engine(adapter, self._model, self._engine_request.images[0].where)
        while True:
            try:
                return adapter.check(self._engine_request)
            except UnsupportedParameter as error:
                params = self._engine_request.params
                name = self._context.policy.ignore(error, params.client_params)
                self._engine_request = replace(self._engine_request, params=params.without(name))

    def _stop_filter(self, adapter: Adapter) -> StopSequenceFilter | None:
        texts = self._engine_request.params.stop
        if not texts or adapter.exact_stop_sequences:
            return None
        return StopSequenceFilter(texts, self._choices)

    def _is_silent(self) -> bool:
        """Whether a keep-alive (an empty list) is due; the first one always is."""
        if not self._last_yield:
            return True
        interval = self._context.keep_alive
        return interval is not None and time.monotonic() - self._last_yield >= interval

    def _filter(self, lease: Lease, events: list[Event]) -> list[Event]:
        """Count events, extend the reservation, and drop events that are not for clients."""
        output: list[Event] = []
        stats, now = self.stats, time.monotonic()
        for event in events:
            if isinstance(event, TextDelta):
                stats.deltas += 1
                stats.last_token_at = now
                if not stats.started:
                    stats.start(now)
                    if stats.prompt_tokens:
                        # With the first token, because any event rules out a retry.
                        tokens = stats.prompt_tokens
                        output.append(PromptProgress(tokens, tokens, stats.cached_tokens))
                output.append(event)
                if not self._is_bounded and self._is_exhausted(lease):
                    model = self._model.name
                    log.warning("completion truncated: the KV cache is full", model=model)
                    output += stats.truncate()
                    break
            elif isinstance(event, PromptProgress):
                self._adjust(lease, event)
            else:
                stats.count(event)
                if not isinstance(event, Usage):
                    output.append(event)
        if stats.finished:
            # Once, at the end, however often the engine reported it.
            output.append(stats.usage())
        return output

    def _missing_usage(self) -> list[Event]:
        """Return usage for a stream that ended without it."""
        if not self.stats.ended:
            raise EngineFailed("The engine's stream ended without a finish reason. Try again.")
        return replicate([self.stats.usage()], self._copies)

    def _adjust(self, lease: Lease, progress: PromptProgress) -> None:
        if self.stats.prompt_tokens != progress.total:
            self.stats.prompt_tokens = progress.total
            if not 0 <= self._reserved - progress.total < ADJUST_TOKENS:
                lease.adjust(progress.total)
        self.stats.cached_tokens = progress.cached

    def _is_exhausted(self, lease: Lease) -> bool:
        """Whether the reserved tokens are used up and the supervisor has no more."""
        self._tokens_left -= 1
        unseen = UNSEEN_TOKENS * self._choices
        if self._tokens_left > unseen:
            return False
        self._tokens_left += lease.extend(EXTENSION_TOKENS * self._choices)
        return self._tokens_left <= unseen
