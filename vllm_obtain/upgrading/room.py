"""Whether two versions have room in memory beside each other. Pure."""

from __future__ import annotations

from vllm_obtain.messages import StatusReply
from vllm_obtain.supervisor import fitting


def is_for_two(status: StatusReply, on_gpu: bool) -> bool:
    """Whether all that is loaded fits a second time.

    Args:
        status: what the supervisor says.
        on_gpu: whether engines live in memory that is a GPU's own.
    """
    free, total = fitting.free_and_total(status.system, on_gpu)
    if on_gpu:
        return fitting.fits(total - free, free, total)
    engines = status.engines
    reserved = sum(engine.reserved_bytes for engine in engines)
    taken = max(reserved, sum(engine.memory_bytes or 0 for engine in engines))
    if 2 * reserved > status.memory.get("limit_bytes", 0):
        return False
    return fitting.fits(taken, free, total)
