"""Calls to an engine without streaming: embeddings, tokenization.

The counterpart of `generation.py` for everything that does not generate tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Generic, TypeVar

import msgspec

from vllm_obtain.control.messages import AcquireLease, CacheHit
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.engines.connection import EngineConnection, EngineConnectionLost
from vllm_obtain.errors import Overloaded, ServiceError
from vllm_obtain.gateway.core.cancellation import CancelToken
from vllm_obtain.gateway.core.quota import CallerQuota
from vllm_obtain.gateway.core.services import Services
from vllm_obtain.gateway.core.usage import GenerationStats
from vllm_obtain.gateway.inference.lease import open_lease
from vllm_obtain.gateway.inference.retry import RetryPolicy
from vllm_obtain.models import Model

T = TypeVar("T")
Request = Callable[[Adapter], tuple[str, object]]

# Seconds between two attempts of a call that waits for admission.
LONGEST_PAUSE = 0.5
_encode = msgspec.json.Encoder().encode


class EngineCall(Generic[T]):
    """Calls of one kind to a model's engine, within the time of one HTTP request.

    Args:
        services: the gateway's services.
        model: the model to use.
        cancel: fires when nobody wants the response any more.
        read: decodes a response, and returns the number of tokens that the engine read for it.
        quota: the caller's quota; None if the call is not charged.
        headers: for the engine, such as the trace context.
    """

    def __init__(
        self,
        services: Services,
        model: Model,
        cancel: CancelToken,
        read: Callable[[Adapter, bytes], tuple[T, int]],
        quota: CallerQuota | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._services = services
        self._model = model
        self._cancel = cancel
        self._read = read
        self._quota = quota
        self._headers = headers
        self._deadline = time.monotonic() + services.settings.request_timeout
        self.stats = GenerationStats()  # of all calls so far
        self.context = 0  # tokens that one request may have, known after the first call

    def __call__(self, tokens: int, request: Request, content: object, patient: bool = False) -> T:
        """Call once.

        Args:
            tokens: an upper bound of the tokens that the engine reads at once.
            request: makes the route and the body for the engine that serves the call.
            content: what the call consists of, by which it is quarantined if it crashes engines.
            patient: whether to wait where too many requests would refuse the call: for calls
                whose HTTP request has had part of its response already.

        Raises:
            ServiceError: it failed.
            ClientDisconnected: `cancel` fired.
        """
        retry = RetryPolicy(self._cancel, self._model.name)
        whole = _encode((self._model.name, self._model.revision, content))
        fingerprint = hashlib.blake2b(whole, digest_size=24).digest()
        while True:
            try:
                return retry.call(partial(self._attempt, tokens, request, fingerprint))
            except ServiceError as error:
                pause = min(error.retry_after or LONGEST_PAUSE, LONGEST_PAUSE)
                left = self._deadline - time.monotonic()
                if not patient or error.code != Overloaded.code or left <= pause:
                    raise
                time.sleep(pause)

    def _attempt(self, tokens: int, request: Request, fingerprint: bytes) -> T:
        supervisor, stats = self._services.supervisor, GenerationStats()
        with open_lease(supervisor, self._cancel, stats, self._deadline) as lease:
            left = max(0.0, self._deadline - time.monotonic())
            caller = self._quota.identify() if self._quota else None
            lease.request(
                AcquireLease(
                    self._model.name, tokens, 0, left, fingerprint=fingerprint, caller=caller
                )
            )
            while (granted := lease.poll()) is None:
                pass  # `poll` raises at the deadline
            assert not isinstance(granted, CacheHit)  # noqa: S101 - nothing was looked up
            if self._quota and granted.headers:
                self._quota.headers = granted.headers
            self.stats.serve(granted.engine, granted.loaded_at)
            self.context = granted.context
            adapter = self._services.adapter(granted.engine)
            connection = EngineConnection(granted.socket, self._deadline, headers=self._headers)
            try:
                with contextlib.closing(connection), self._cancel.attach(connection):
                    response = connection.request(*request(adapter))
            except EngineConnectionLost as error:
                error.process = granted.loaded_at
                raise
            decoded, stats.prompt_tokens = self._read(adapter, response)
            self.stats.prompt_tokens += stats.prompt_tokens
            stats.finish_reason = "stop"
            return decoded
