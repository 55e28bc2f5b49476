"""Where requests wait for a model's next process, whichever engine that will be."""

from __future__ import annotations

from vllm_obtain.supervisor.admission import Admission


class Lobby:
    """The waiting room of one model. Whatever process is ready first takes all who wait."""

    def __init__(self) -> None:
        self._next: Admission | None = None

    @property
    def queue(self) -> int:
        """Requests that wait."""
        return self._next.queue if self._next else 0

    @property
    def admission(self) -> Admission:
        """Where a new request waits."""
        if self._next is None:
            self._next = Admission()
        return self._next

    def take(self) -> Admission:
        """Hand all who wait to a process that is ready; they are in before anybody else."""
        taken, self._next = self.admission, None
        return taken

    def dismiss(self, reason: Exception | None = None) -> None:
        """Send those who wait away.

        Args:
            reason: what they are told; when left out, they ask for a place anew.
        """
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting.close(reason)
