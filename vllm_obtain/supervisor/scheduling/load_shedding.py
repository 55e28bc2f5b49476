"""Load shedding: limits of running and queued requests, in total and per model."""

from __future__ import annotations

from collections import defaultdict

from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import Overloaded
from vllm_obtain.supervisor.scheduling.drain_rate import DrainRate


class ConcurrencyLimits:
    """Counts the requests of all workers and enforces the concurrency limits.

    Args:
        settings: the service's settings, with MAX_CONCURRENT_REQUESTS, MAX_QUEUED_REQUESTS and the
            limits of single models.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rate = DrainRate()
        self._sizes: dict[str, int] = defaultdict(int)
        self._rates: dict[str, DrainRate] = defaultdict(DrainRate)
        self.size = 0

    def check(self, model: str) -> None:
        """Check that one more request may run or wait.

        Args:
            model: name of the model.

        Raises:
            Overloaded: a limit is reached; has the seconds to wait.
        """
        limit = self._settings.max_concurrent_requests
        if self.size >= limit:
            raise Overloaded(
                f"The service has {self.size} running and queued requests, the limit of "
                f"MAX_CONCURRENT_REQUESTS={limit}. Try again later, or raise the limit.",
                retry_after=self._rate.seconds_per_request,
            )
        own = self._settings.models.of(model).max_concurrent_requests
        if own is not None and self._sizes[model] >= own:
            raise Overloaded(
                f"'{model}' has {self._sizes[model]} running and queued requests, the limit of its "
                f"max_concurrent_requests={own}. Try again later, or raise the limit in "
                "MODEL_SETTINGS.",
                retry_after=self._rates[model].seconds_per_request,
            )

    def check_queue(self, model: str, waiting: int) -> None:
        """Check that one more request may wait for a model.

        Args:
            model: name of the model.
            waiting: number of queued requests of the model.

        Raises:
            Overloaded: the queue is full; has the seconds to wait.
        """
        own = self._settings.models.of(model).max_queued_requests
        limit = self._settings.max_queued_requests if own is None else own
        if limit and waiting >= limit:
            setting = "MAX_QUEUED_REQUESTS" if own is None else "its max_queued_requests"
            raise Overloaded(
                f"'{model}' has {waiting} queued requests, the limit of {setting}={limit}. Try "
                "again later, or raise the limit.",
                retry_after=self._rates[model].seconds_per_request,
            )

    def enter(self, model: str) -> None:
        """Count a new request."""
        self.size += 1
        self._sizes[model] += 1

    def leave(self, model: str, ended: bool = False) -> None:
        """Count the end of a request.

        Args:
            model: name of the model.
            ended: whether the request had a slot, which is free now.
        """
        self.size -= 1
        self._sizes[model] -= 1
        if ended:
            self._rate.ended()
            self._rates[model].ended()
