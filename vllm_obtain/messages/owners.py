"""Who the supervisor lives for."""

from __future__ import annotations

from vllm_obtain.messages.base import Message


class Join(Message, frozen=True):
    """Become an owner: the supervisor lives as long as one of its owners. → Welcome.

    Args:
        version: of the code that speaks and its settings (`runtime.version`).
        owner_pid: the gunicorn master, or the development server.
        owner_start: when that process started (`owners.started`); tells a reused pid.
    """

    version: str
    owner_pid: int
    owner_start: float


class Welcome(Message, frozen=True):
    """Who answers: the version of its code and settings, and its pid."""

    version: str
    pid: int


class Stop(Message, frozen=True):
    """End, with all engines. The connection closes when it is done."""
