"""Messages of the supervisor's lifetime."""

from __future__ import annotations

from vllm_obtain.control.messages.base import Reply, Request


class RegisterOwner(Request, frozen=True):
    """Register an owner. The supervisor runs while one of its owners does. → OwnerRegistered.

    Args:
        version: fingerprint of the client's code and settings (`runtime_dir.version`).
        owner_pid: pid of the gunicorn master or the development server.
        owner_start: start time of that process (`owners.start_time`), since pids are reused.
        worker_pid: pid of the sender if this is its heartbeat, else 0.
    """

    version: str
    owner_pid: int
    owner_start: float
    worker_pid: int = 0


class OwnerRegistered(Reply, frozen=True):
    """The supervisor's pid, and the fingerprint of its code and settings."""

    version: str
    pid: int


class StopSupervisor(Request, frozen=True):
    """Stop the supervisor and all engines. The connection closes when it is done."""
