"""Whose account a request goes on, and what is left there."""

from __future__ import annotations

from vllm_obtain.access.key import Key
from vllm_obtain.messages import Caller, Granted, Spend, Spent
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.client import Supervisor


class Account:
    """A caller's, for the time of one request.

    Args:
        key: the caller's, None where no keys are needed: then all are one.
        settings: have the limits of keys without their own.
    """

    def __init__(self, key: Key | None, settings: Settings) -> None:
        self._id = key.id if key is not None else ""
        self._limits = limits_of(key, settings)
        self._known = False
        self.headers: dict[str, str] = {}

    @property
    def is_limited(self) -> bool:
        """Whether it can be used up."""
        return any(self._limits)

    def introduce(self) -> Caller | None:
        """Say who takes a lease; a request may take several, and is counted once."""
        again, self._known = self._known, True
        if not self._id and not self.is_limited:
            return None
        return Caller(self._id, *self._limits, again)

    def told(self, granted: Granted) -> None:
        """Note what is left, for the client."""
        if granted.headers:
            self.headers = granted.headers

    def spend(self, supervisor: Supervisor) -> None:
        """Count the request now, since somebody else's answer may do for it.

        Args:
            supervisor: who counts.

        Raises:
            RateLimited: the caller has to wait.
        """
        if not self.is_limited or self._known:  # one that is asked again is counted once
            return
        caller = self.introduce()
        if caller is not None:
            self.headers = supervisor.ask(Spend(caller), Spent).headers


def limits_of(key: Key | None, settings: Settings) -> tuple[int, int]:
    """Find a caller's requests and tokens per minute: its own, or those of the settings."""
    requests, tokens = settings.requests_per_minute, settings.tokens_per_minute
    if key is not None and key.requests_per_minute is not None:
        requests = key.requests_per_minute
    if key is not None and key.tokens_per_minute is not None:
        tokens = key.tokens_per_minute
    return requests, tokens
