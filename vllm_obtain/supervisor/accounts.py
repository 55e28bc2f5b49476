"""What callers take, over all workers: their limits, and the sum of it."""

from __future__ import annotations

import time
from collections.abc import Iterable

from vllm_obtain.access.rates import Account, Rates
from vllm_obtain.messages import Acquire, Caller, KeyUsage, Release, Served, Spend

# What a request without max_tokens is taken for, until it is known.
UNKNOWN_TOKENS = 512
# A prompt's tokens are told as a bound, its bytes; most have a fourth of that.
BYTES_PER_TOKEN = 4


class Bill:
    """What one lease takes from its caller's account.

    Args:
        account: the caller's.
        tokens: how many were taken in advance.
        requests: whether it was counted as a request: 1 or 0.
    """

    def __init__(self, accounts: Accounts, caller: Caller, tokens: float) -> None:
        self._accounts = accounts
        self._caller = caller
        self._account = accounts.of(caller)
        if not caller.again:
            self._account.check(tokens)
            self._account.take("requests", 1)
        self._tokens = tokens
        self._account.take("tokens", tokens)

    @property
    def headers(self) -> dict[str, str]:
        """What is left, for the client."""
        return self._account.headers()

    def cancel(self) -> None:
        """Give back everything: the request got no lease."""
        if not self._caller.again:
            self._account.take("requests", -1)
        self._account.take("tokens", -self._tokens)

    def settle(self, release: Release) -> None:
        """Take what it really was."""
        self._account.take("tokens", release.prompt_tokens + release.completion_tokens)
        self._account.take("tokens", -self._tokens)
        self._accounts.used(self._caller.id, release)


class Accounts:
    """Everything that callers took since the supervisor started."""

    def __init__(self) -> None:
        self._rates = Rates()
        self._usage: dict[str, KeyUsage] = {}

    def of(self, caller: Caller) -> Account:
        """Find a caller's account."""
        return self._rates.account(caller.id, caller.requests, caller.tokens)

    def bill(self, request: Acquire) -> Bill | None:
        """Begin a lease's bill; None for one that nobody counts.

        Raises:
            RateLimited: its caller has to wait.
        """
        if request.caller is None:
            return None
        answer = UNKNOWN_TOKENS if request.max_tokens is None else request.max_tokens
        tokens = request.prompt_tokens / BYTES_PER_TOKEN + answer * request.choices
        return Bill(self, request.caller, tokens)

    def spend(self, message: Spend) -> dict[str, str]:
        """Count a request that may need no lease; its tokens are billed if it takes one.

        Returns:
            What is left, for the client.

        Raises:
            RateLimited: its caller has to wait.
        """
        account = self.of(message.caller)
        account.check(1)
        account.take("requests", 1)
        return account.headers()

    def served(self, served: Iterable[Served]) -> None:
        """Count requests that were answered."""
        for one in served:
            if one.key:
                usage = self._of_key(one.key)
                usage.requests += 1
                usage.last_used = time.time()

    def used(self, key: str, release: Release) -> None:
        """Count what a lease came to."""
        if key:
            usage = self._of_key(key)
            usage.prompt_tokens += release.prompt_tokens
            usage.cached_tokens += release.cached_tokens
            usage.completion_tokens += release.completion_tokens

    @property
    def usage(self) -> dict[str, KeyUsage]:
        """What each key took."""
        return self._usage

    def _of_key(self, key: str) -> KeyUsage:
        return self._usage.setdefault(key, KeyUsage())
