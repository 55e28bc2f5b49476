"""Whether what is loaded fits a second time."""

from __future__ import annotations

import pytest

from vllm_obtain.control.messages import EngineStatus, StatusReply
from vllm_obtain.server.upgrade.memory_check import fits_two_instances

GB = 10**9


def status(reserved: int, measured: int, limit: int, free: int, **system: float) -> StatusReply:
    engine = EngineStatus(
        engine="llama_cpp",
        model="a",
        state="ready",
        pid=1,
        memory_bytes=measured * GB,
        in_flight=0,
        queue=0,
        restarts=0,
        last_error=None,
        slots=1,
        context=1,
        tokens_reserved=0,
        tokens_pool=None,
        load_seconds=None,
        idle_seconds=None,
        reserved_bytes=reserved * GB,
    )
    found = {"memory_total_bytes": 100.0 * GB, "memory_available_bytes": float(free * GB)}
    memory = {"limit_bytes": limit * GB, "reserved_bytes": reserved * GB}
    return StatusReply(1, 1.0, [engine], found | system, 0, {}, memory=memory)


@pytest.mark.parametrize(
    ("reserved", "measured", "limit", "free", "fits"),
    [
        (30, 20, 90, 60, True),
        (50, 20, 90, 80, False),  # twice is more than MEMORY_LIMIT
        (30, 20, 90, 34, False),  # there is not so much that is free, with a margin
        (10, 40, 90, 42, False),  # it takes more than was reserved
        (0, 0, 90, 10, True),  # nothing is loaded
    ],
)
def test_in_the_machines_memory(
    reserved: int, measured: int, limit: int, free: int, fits: bool
) -> None:
    assert fits_two_instances(status(reserved, measured, limit, free), on_gpu=False) is fits


@pytest.mark.parametrize(("used", "fits"), [(30, True), (70, False)])
def test_in_a_gpus_own(used: int, fits: bool) -> None:
    gpu = {"gpu0_memory_total_bytes": 80.0 * GB, "gpu0_memory_used_bytes": float(used * GB)}
    assert fits_two_instances(status(0, 1, 90, 90, **gpu), on_gpu=True) is fits
