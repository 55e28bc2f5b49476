"""The caller's quota for one request."""

from __future__ import annotations

from vllm_obtain.access.api_key import ApiKey
from vllm_obtain.config.settings import Settings
from vllm_obtain.control.client import SupervisorClient
from vllm_obtain.control.messages import CallerIdentity, ChargeQuota, QuotaCharged


class CallerQuota:
    """The quota of a caller, for one request.

    Args:
        key: the caller's API key; None if authentication is disabled, then all share one quota.
        settings: the default limits.
    """

    def __init__(self, key: ApiKey | None, settings: Settings) -> None:
        self._id = key.id if key is not None else ""
        self._limits = limits_of(key, settings)
        self._is_counted = False
        # The rate-limit headers of the response; set from the lease.
        self.headers: dict[str, str] = {}

    @property
    def is_limited(self) -> bool:
        return any(self._limits)

    def identify(self) -> CallerIdentity | None:
        """Identify the caller of a lease; a request with several leases is counted once."""
        counted, self._is_counted = self._is_counted, True
        if not self._id and not self.is_limited:
            return None
        return CallerIdentity(self._id, *self._limits, counted)

    def charge(self, supervisor: SupervisorClient) -> None:
        """Count the request now, because a coalesced request may take no lease.

        Args:
            supervisor: the supervisor, which counts.

        Raises:
            RateLimited: the quota is used up.
        """
        if not self.is_limited or self._is_counted:  # a retry is not counted again
            return
        caller = self.identify()
        if caller is not None:
            self.headers = supervisor.request(ChargeQuota(caller), QuotaCharged).headers


def limits_of(key: ApiKey | None, settings: Settings) -> tuple[int, int]:
    """Return a caller's requests and tokens per minute: those of its key, or the defaults."""
    requests, tokens = settings.requests_per_minute, settings.tokens_per_minute
    if key is not None and key.requests_per_minute is not None:
        requests = key.requests_per_minute
    if key is not None and key.tokens_per_minute is not None:
        tokens = key.tokens_per_minute
    return requests, tokens
