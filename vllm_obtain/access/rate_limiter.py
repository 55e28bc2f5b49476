"""Token-bucket rate limiter: requests and tokens per minute of each caller."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from vllm_obtain.errors import RateLimited

MINUTE = 60.0


class TokenBucket:
    """A bucket that refills evenly up to one minute's allowance.

    Args:
        limit: units per minute.
        now: current time of the clock, in seconds.
    """

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self.level = float(limit)
        self._at = now

    def fill(self, limit: int, now: float) -> None:
        """Refill for the time since the last call, and set the limit.

        Args:
            limit: units per minute.
            now: current time of the clock, in seconds.
        """
        self.level += (now - self._at) * self.limit / MINUTE
        self._at, self.limit = now, limit
        self.level = min(self.level, limit)

    def wait(self, amount: float) -> float:
        """Return the seconds until an amount is available; amounts above the limit count as it."""
        lacking = min(amount, self.limit) - self.level
        return max(0.0, lacking * MINUTE / self.limit)

    def take(self, amount: float) -> None:
        """Take an amount, or return a negative one. Debt is limited to one minute's allowance."""
        self.level = max(-float(self.limit), min(self.level - amount, self.limit))

    def headers(self, unit: str) -> dict[str, str]:
        """Return OpenAI's `x-ratelimit-*` headers for `requests` or `tokens`."""
        full = (self.limit - self.level) * MINUTE / self.limit
        return {
            f"x-ratelimit-limit-{unit}": str(self.limit),
            f"x-ratelimit-remaining-{unit}": str(max(0, math.floor(self.level + 1e-6))),
            f"x-ratelimit-reset-{unit}": duration(full),
        }


class CallerBuckets:
    """The buckets of one caller. A caller without limits has none.

    Args:
        name: id of the caller's key, for error messages; empty where there are no keys.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._buckets: dict[str, TokenBucket] = {}

    def limit(self, requests: int, tokens: int, now: float) -> None:
        """Set the limits and refill the buckets.

        Args:
            requests: requests per minute, 0 for no limit.
            tokens: tokens per minute, 0 for no limit.
            now: current time of the clock, in seconds.
        """
        for unit, limit in (("requests", requests), ("tokens", tokens)):
            if not limit:
                self._buckets.pop(unit, None)
            elif unit in self._buckets:
                self._buckets[unit].fill(limit, now)
            else:
                self._buckets[unit] = TokenBucket(limit, now)

    def check(self, tokens: float) -> None:
        """Check whether one more request is within the limits.

        Args:
            tokens: upper estimate of the request's tokens.

        Raises:
            RateLimited: a limit is reached; has the seconds to wait.
        """
        wanted = {"requests": 1.0, "tokens": tokens}
        waits = {unit: bucket.wait(wanted[unit]) for unit, bucket in self._buckets.items()}
        unit = max(waits, key=lambda each: waits[each], default="")
        if unit and waits[unit] > 0:
            subject = f"of the API key '{self._name}'" if self._name else "of this service"
            raise RateLimited(
                f"Rate limit {subject} reached: {self._buckets[unit].limit} {unit} per minute. "
                f"Try again in {duration(waits[unit])}, or ask the operator for a higher limit.",
                retry_after=waits[unit],
                headers=self.headers(),
            )

    def take(self, unit: str, amount: float) -> None:
        """Take an amount of `requests` or `tokens`, if that is limited."""
        if unit in self._buckets:
            self._buckets[unit].take(amount)

    def headers(self) -> dict[str, str]:
        """Return OpenAI's `x-ratelimit-*` headers; none without limits."""
        headers: dict[str, str] = {}
        for unit, bucket in self._buckets.items():
            headers |= bucket.headers(unit)
        return headers


class RateLimiter:
    """The buckets of all callers.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._callers: dict[str, CallerBuckets] = {}

    def buckets(self, name: str, requests: int, tokens: int) -> CallerBuckets:
        """Return a caller's buckets with its current limits.

        Args:
            name: id of the caller's key, empty where there are no keys.
            requests: requests per minute, 0 for no limit.
            tokens: tokens per minute, 0 for no limit.
        """
        buckets = self._callers.get(name)
        if buckets is None:
            buckets = self._callers[name] = CallerBuckets(name)
        buckets.limit(requests, tokens, self._clock())
        return buckets


def duration(seconds: float) -> str:
    """Format a duration in seconds as OpenAI's rate limit headers do: 120ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, 60)
    return f"{int(minutes)}m{rest:.3g}s" if minutes else f"{rest:.4g}s"
