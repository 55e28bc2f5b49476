"""Load shedding: limits of running and queued requests, in total and per model.

At a limit, a request takes the place of a queued one if another caller has more queued requests, so
a caller that floods the service is rejected first. This is longest queue drop of Suter et al.,
"Buffer Management Schemes for Supporting TCP in Gigabit Routers with Per-flow Queueing" (1999).
"""

from __future__ import annotations

from collections import Counter, defaultdict

from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import Overloaded
from vllm_obtain.supervisor.scheduling.admission import Ticket
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
        # The model of each queued request, in order of arrival.
        self._queued: dict[Ticket, str] = {}
        self.size = 0

    def is_reached(self, model: str) -> bool:
        """Whether a concurrency limit allows no further request for a model."""
        return self.size >= self._settings.max_concurrent_requests or self._is_model_full(model)

    def check(self, model: str, caller: str) -> None:
        """Check that one more request may run or wait.

        Args:
            model: name of the model.
            caller: id of the caller.

        Raises:
            Overloaded: a limit is reached; has the seconds to wait.
        """
        if self._is_model_full(model):
            queued = self._queued_of(model)
            limit = self._settings.models.of(model).max_concurrent_requests
            error = Overloaded(
                f"'{model}' has {self._sizes[model]} running and queued requests, the limit of its "
                f"max_concurrent_requests={limit}. Try again later, or raise the "
                "limit in MODEL_SETTINGS.",
                retry_after=self._rates[model].seconds(len(queued) + 1),
            )
            # A displaced request leaves a place in total, too.
            self._displace(caller, queued, error)
        elif self.size >= (limit := self._settings.max_concurrent_requests):
            error = Overloaded(
                f"The service has {self.size} running and queued requests, the limit of "
                f"MAX_CONCURRENT_REQUESTS={limit}. Try again later, or raise the limit.",
                retry_after=self._rate.seconds(len(self._queued) + 1),
            )
            self._displace(caller, self._queued, error)

    def check_queue(self, model: str, waiting: int, caller: str) -> None:
        """Check that one more request may wait for a model.

        Args:
            model: name of the model.
            waiting: number of queued requests of the model.
            caller: id of the caller.

        Raises:
            Overloaded: the queue is full; has the seconds to wait.
        """
        own = self._settings.models.of(model).max_queued_requests
        limit = self._settings.max_queued_requests if own is None else own
        if limit and waiting >= limit:
            setting = "MAX_QUEUED_REQUESTS" if own is None else "its max_queued_requests"
            error = Overloaded(
                f"'{model}' has {waiting} queued requests, the limit of {setting}={limit}. Try "
                "again later, or raise the limit.",
                retry_after=self._rates[model].seconds(waiting + 1),
            )
            self._displace(caller, self._queued_of(model), error)

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

    def queue(self, ticket: Ticket, model: str) -> None:
        """Record that a request waits; `unqueue` ends this."""
        self._queued[ticket] = model

    def unqueue(self, ticket: Ticket) -> None:
        """Record that a request waits no more."""
        self._queued.pop(ticket, None)

    def _is_model_full(self, model: str) -> bool:
        limit = self._settings.models.of(model).max_concurrent_requests
        return limit is not None and self._sizes[model] >= limit

    def _queued_of(self, model: str) -> dict[Ticket, str]:
        return {ticket: model for ticket, name in self._queued.items() if name == model}

    def _displace(self, caller: str, queued: dict[Ticket, str], error: Overloaded) -> None:
        """Reject the newest request of the caller that has the most in a queue, with `error`.

        Raises:
            Overloaded: `error`, if no caller has two more requests in the queue than `caller`.
        """
        counts = Counter(ticket.caller for ticket in queued)
        heaviest = max(counts, key=counts.__getitem__, default=caller)
        if counts[heaviest] < counts[caller] + 2:
            raise error
        newest = next(ticket for ticket in reversed(queued) if ticket.caller == heaviest)
        self.unqueue(newest)
        newest.reject(error)
