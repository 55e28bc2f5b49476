"""Rate limits and usage of callers, over all workers."""

from __future__ import annotations

import time
from collections.abc import Iterable

from vllm_obtain.access.rate_limiter import CallerBuckets, RateLimiter
from vllm_obtain.control.messages import (
    AcquireLease,
    CallerIdentity,
    ChargeQuota,
    KeyUsage,
    QuotaCharged,
    ReleaseLease,
    RequestRecord,
    Usage,
    UsageReply,
)
from vllm_obtain.supervisor.handlers import Handlers

# Reserved completion tokens of a request without max_tokens.
DEFAULT_TOKENS = 512
# Prompt tokens arrive as an upper bound, the bytes of the prompt. Most prompts have a fourth of it.
BYTES_PER_TOKEN = 4


class QuotaReservation:
    """The quota that one lease has reserved.

    Args:
        quotas: the quotas of all callers.
        caller: the caller.
        tokens: reserved tokens.

        Raises:
            RateLimited: a limit of the caller is reached.
    """

    def __init__(self, quotas: CallerQuotas, caller: CallerIdentity, tokens: float) -> None:
        self._quotas = quotas
        self._caller = caller
        self._buckets = quotas.buckets(caller)
        if not caller.again:
            self._buckets.check(tokens)
            self._buckets.take("requests", 1)
        self._tokens = tokens
        self._buckets.take("tokens", tokens)

    @property
    def headers(self) -> dict[str, str]:
        """The rate limit headers for the client."""
        return self._buckets.headers()

    def cancel(self) -> None:
        """Return the whole reservation: the request got no lease."""
        if not self._caller.again:
            self._buckets.take("requests", -1)
        self._buckets.take("tokens", -self._tokens)

    def settle(self, release: ReleaseLease) -> None:
        """Replace the reservation by the actual usage."""
        self._buckets.take("tokens", release.prompt_tokens + release.completion_tokens)
        self._buckets.take("tokens", -self._tokens)
        self._quotas.count_tokens(self._caller.id, release)


class CallerQuotas:
    """The rate limits and the usage of all callers since the supervisor started."""

    def __init__(self) -> None:
        self._limiter = RateLimiter()
        self._usage: dict[str, KeyUsage] = {}
        self.handlers: Handlers = {
            ChargeQuota: lambda message: QuotaCharged(self.charge(message.caller)),
            Usage: lambda _: UsageReply(self._usage),
        }

    def buckets(self, caller: CallerIdentity) -> CallerBuckets:
        return self._limiter.buckets(caller.id, caller.requests, caller.tokens)

    def reserve(self, request: AcquireLease) -> QuotaReservation | None:
        """Reserve the quota for a lease; None for a request without a caller.

        Raises:
            RateLimited: a limit of the caller is reached.
        """
        if request.caller is None:
            return None
        completion = DEFAULT_TOKENS if request.max_tokens is None else request.max_tokens
        tokens = request.prompt_tokens / BYTES_PER_TOKEN + completion * request.choices
        return QuotaReservation(self, request.caller, tokens)

    def charge(self, caller: CallerIdentity) -> dict[str, str]:
        """Count a request that may need no lease. Its tokens are counted if it acquires one.

        Returns:
            The rate limit headers for the client.

        Raises:
            RateLimited: a limit of the caller is reached.
        """
        caller_buckets = self.buckets(caller)
        caller_buckets.check(1)
        caller_buckets.take("requests", 1)
        return caller_buckets.headers()

    def count_requests(self, requests: Iterable[RequestRecord]) -> None:
        for request in requests:
            if request.key:
                usage = self._usage_of(request.key)
                usage.requests += 1
                usage.last_used = time.time()

    def count_tokens(self, key: str, release: ReleaseLease) -> None:
        if key:
            usage = self._usage_of(key)
            usage.prompt_tokens += release.prompt_tokens
            usage.cached_tokens += release.cached_tokens
            usage.completion_tokens += release.completion_tokens

    def _usage_of(self, key: str) -> KeyUsage:
        return self._usage.setdefault(key, KeyUsage())
