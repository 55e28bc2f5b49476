"""Decides whether the models of two versions fit into memory together. No I/O."""

from __future__ import annotations

from vllm_obtain.control.messages import StatusReply
from vllm_obtain.supervisor.memory import estimate as memory_estimate


def fits_two_instances(status: StatusReply, on_gpu: bool) -> bool:
    """Whether all loaded models fit into memory a second time.

    Args:
        status: status of the supervisor.
        on_gpu: whether engines use dedicated GPU memory.
    """
    free, total = memory_estimate.free_and_total(status.system, on_gpu)
    if on_gpu:
        return memory_estimate.fits(total - free, free, total)
    engines = status.engines
    reserved = sum(engine.reserved_bytes for engine in engines)
    used = max(reserved, sum(engine.memory_bytes or 0 for engine in engines))
    if 2 * reserved > status.memory.get("limit_bytes", 0):
        return False
    return memory_estimate.fits(used, free, total)
