"""The queue of a model's requests while no engine is ready."""

from __future__ import annotations

from vllm_obtain.supervisor.scheduling.admission import AdmissionQueue


class WaitingRoom:
    """The queue of one model. The first process that is ready takes all its requests."""

    def __init__(self) -> None:
        self._next: AdmissionQueue | None = None

    @property
    def queue(self) -> int:
        return self._next.queue if self._next else 0

    @property
    def admission(self) -> AdmissionQueue:
        """The admission queue for new requests."""
        if self._next is None:
            self._next = AdmissionQueue()
        return self._next

    def take(self) -> AdmissionQueue:
        """Return the admission queue for a process that is ready, and start a new one."""
        taken, self._next = self.admission, None
        return taken

    def dismiss(self, reason: Exception | None = None) -> None:
        """Reject the waiting requests.

        Args:
            reason: the error for them; None lets them queue again.
        """
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting.close(reason)
