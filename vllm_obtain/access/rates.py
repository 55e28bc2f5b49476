"""Requests and tokens per minute of each caller. Pure: no sockets, a clock that is given."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from vllm_obtain.errors import RateLimited

MINUTE = 60.0


class Bucket:
    """Fills evenly, to what a minute allows; what is taken from it may be corrected later.

    Args:
        limit: per minute.
        now: seconds.
    """

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self.level = float(limit)
        self._at = now

    def fill(self, limit: int, now: float) -> None:
        """Let time pass; the limit may have changed."""
        self.level += (now - self._at) * self.limit / MINUTE
        self._at, self.limit = now, limit
        self.level = min(self.level, limit)

    def wait(self, amount: float) -> float:
        """Seconds until it holds an amount; one that it never holds counts as all it can."""
        lacking = min(amount, self.limit) - self.level
        return max(0.0, lacking * MINUTE / self.limit)

    def take(self, amount: float) -> None:
        """Take an amount, or with a negative one give back. Debt is a minute's worth at most."""
        self.level = max(-float(self.limit), min(self.level - amount, self.limit))

    def headers(self, of: str) -> dict[str, str]:
        """How full it is, in OpenAI's words."""
        full = (self.limit - self.level) * MINUTE / self.limit
        return {
            f"x-ratelimit-limit-{of}": str(self.limit),
            f"x-ratelimit-remaining-{of}": str(max(0, math.floor(self.level + 1e-6))),
            f"x-ratelimit-reset-{of}": duration(full),
        }


class Account:
    """The buckets of one caller; one without a limit has none.

    Args:
        name: the caller's, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._buckets: dict[str, Bucket] = {}

    def limit(self, requests: int, tokens: int, now: float) -> None:
        """Set the limits per minute, 0 for none, and let time pass."""
        for of, limit in (("requests", requests), ("tokens", tokens)):
            if not limit:
                self._buckets.pop(of, None)
            elif of in self._buckets:
                self._buckets[of].fill(limit, now)
            else:
                self._buckets[of] = Bucket(limit, now)

    def check(self, tokens: float) -> None:
        """See whether there is room for one more request.

        Args:
            tokens: that it may take.

        Raises:
            RateLimited: not yet.
        """
        wanted = {"requests": 1.0, "tokens": tokens}
        waits = {of: bucket.wait(wanted[of]) for of, bucket in self._buckets.items()}
        of = max(waits, key=lambda each: waits[each], default="")
        if of and waits[of] > 0:
            who = f"The key '{self._name}' has" if self._name else "Clients here have"
            raise RateLimited(
                f"{who} {self._buckets[of].limit} {of} per minute, and they are used up. Try again "
                f"in {duration(waits[of])}, or ask whoever runs this service for more.",
                retry_after=waits[of],
                headers=self.headers(),
            )

    def take(self, of: str, amount: float) -> None:
        """Take from a bucket, if there is one."""
        if of in self._buckets:
            self._buckets[of].take(amount)

    def headers(self) -> dict[str, str]:
        """How much is left, in OpenAI's words; none without limits."""
        told: dict[str, str] = {}
        for of, bucket in self._buckets.items():
            told |= bucket.headers(of)
        return told


class Rates:
    """The accounts of all callers.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def account(self, name: str, requests: int, tokens: int) -> Account:
        """Find a caller's account, with its limits of today.

        Args:
            name: the caller's.
            requests: per minute, 0 for no limit.
            tokens: likewise.
        """
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(name)
        account.limit(requests, tokens, self._clock())
        return account


def duration(seconds: float) -> str:
    """Write a time as OpenAI does in these headers: 120ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, 60)
    return f"{int(minutes)}m{rest:.3g}s" if minutes else f"{rest:.4g}s"
