"""How many requests run or wait, in all and for each model, and when there are too many."""

from __future__ import annotations

from collections import defaultdict

from vllm_obtain.errors import Overloaded
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.drain_rate import DrainRate


class Crowd:
    """All requests of a service, over all its workers.

    Args:
        settings: have MAX_CONCURRENT_REQUESTS and MAX_QUEUED_REQUESTS, and both for single models.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rate = DrainRate()
        self._sizes: dict[str, int] = defaultdict(int)
        self._rates: dict[str, DrainRate] = defaultdict(DrainRate)
        self.size = 0

    def check(self, model: str) -> None:
        """See whether one more may run or wait.

        Args:
            model: what it asks.

        Raises:
            Overloaded: there are as many as may be.
        """
        limit = self._settings.max_concurrent_requests
        if self.size >= limit:
            raise Overloaded(
                f"{self.size} requests are running or waiting, and "
                f"MAX_CONCURRENT_REQUESTS={limit}. Try again in a moment, or raise it.",
                retry_after=self._rate.seconds_per_request,
            )
        own = self._settings.models.of(model).max_concurrent_requests
        if own is not None and self._sizes[model] >= own:
            raise Overloaded(
                f"{self._sizes[model]} requests to '{model}' are running or waiting, and its "
                f"max_concurrent_requests is {own}. Try again in a moment, or raise it in "
                "MODEL_SETTINGS.",
                retry_after=self._rates[model].seconds_per_request,
            )

    def check_queue(self, model: str, waiting: int) -> None:
        """See whether one more may wait for a model.

        Args:
            model: its name.
            waiting: how many do.

        Raises:
            Overloaded: there are as many as may be.
        """
        own = self._settings.models.of(model).max_queued_requests
        limit = self._settings.max_queued_requests if own is None else own
        if limit and waiting >= limit:
            name = "MAX_QUEUED_REQUESTS" if own is None else "its max_queued_requests"
            raise Overloaded(
                f"{waiting} requests wait for '{model}', and {name} is {limit}. Try again in a "
                "moment, or raise it.",
                retry_after=self._rates[model].seconds_per_request,
            )

    def joined(self, model: str) -> None:
        """Note one more."""
        self.size += 1
        self._sizes[model] += 1

    def left(self, model: str, ended: bool = False) -> None:
        """Note one less.

        Args:
            model: what it asked.
            ended: whether it had a place, which is free now.
        """
        self.size -= 1
        self._sizes[model] -= 1
        if ended:
            self._rate.ended()
            self._rates[model].ended()
