"""The memory budget of all engines, and estimates of their memory use in bytes.

Engines in dedicated GPU memory are not counted, since vLLM manages that memory itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.adapter import Adapter, Sizing
from vllm_obtain.engines.model_options import extra_bytes, value_bytes, visible
from vllm_obtain.errors import InsufficientMemory, ServiceError
from vllm_obtain.hardware.machine import describe, device
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models import Model
from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.engine.load_errors import explain
from vllm_obtain.supervisor.engine.states import OCCUPIES
from vllm_obtain.supervisor.memory import estimate as memory_estimate

log = get_logger("vllm_obtain.models")

# Shares of the machine's memory to plan an engine with, until it fits. Its KV cache shrinks with
# it.
SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)
GB = 1e9
NEARLY_ALL = 0.85


@dataclass(frozen=True)
class MemoryEstimate:
    """The estimated memory use of an engine.

    Args:
        needed: bytes in total.
        sizing: the sizing that uses them.
        on_gpu: whether it uses dedicated GPU memory, which is not counted.
    """

    needed: int
    sizing: Sizing
    on_gpu: bool = False


class MemoryBudget:
    """The memory budget of a service.

    Args:
        settings: the service's settings, with MEMORY_LIMIT.
        engines: lists all engines.
    """

    def __init__(self, settings: Settings, engines: Callable[[], Sequence[Engine]]) -> None:
        self._settings = settings
        self._engines = engines

    @property
    def limit(self) -> int:
        """Bytes that all engines may use together."""
        limit = self._settings.memory_limit
        return int(limit * describe().memory_bytes if limit <= 1 else limit)

    @property
    def _machine(self) -> int:
        """Bytes that an engine may assume as the machine's memory, at most.

        A limit close to the total does not change how engines plan.
        """
        total = describe().memory_bytes
        return total if self.limit > total * NEARLY_ALL else self.limit

    @property
    def reserved(self) -> int:
        """Bytes that are reserved, also for running loads."""
        return sum(engine.reserved for engine in self._engines() if engine.state in OCCUPIES)

    @property
    def usage(self) -> dict[str, int]:
        """Limit and reservation, for the status page."""
        return {"limit_bytes": self.limit, "reserved_bytes": self.reserved}

    def estimate(self, engine: Engine, others: int = 0) -> MemoryEstimate:
        """Estimate the memory use of an engine, with a KV cache that is small enough to fit.

        Args:
            engine: the engine, with prepared files.
            others: bytes of pinned models, which are not evicted.

        Raises:
            InsufficientMemory: it does not fit, even with the smallest KV cache.
            ServiceError: the engine cannot be planned with these files and settings.
        """
        on_gpu = memory_estimate.on_own_gpu(describe(), device(self._settings.device_type))
        available, smallest = self.limit - others, None
        for share in SHARES:
            memory = int(self._machine * share)
            try:
                sizing = plan(engine.adapter, engine.files, self._settings, memory)
            except Exception as error:  # an extra engine runs its own code here
                if smallest is None:
                    raise _not_planned(engine, error) from error
                break  # the model's settings do not fit into this share
            smallest = MemoryEstimate(self._needed_bytes(engine, sizing, on_gpu), sizing, on_gpu)
            if on_gpu or smallest.needed <= available:
                return smallest
        assert smallest is not None  # noqa: S101 - SHARES has one at least
        raise self._insufficient(engine, smallest, others)

    def _needed_bytes(self, engine: Engine, sizing: Sizing, on_gpu: bool) -> int:
        model_settings = self._settings.models.of(engine.files.name)
        overhead = memory_estimate.OVERHEAD_GPU if on_gpu else engine.adapter.overhead_bytes
        return extra_bytes(model_settings) + memory_estimate.need(
            engine.files, sizing.limits, overhead, value_bytes(model_settings), sizing.weights_bytes
        )

    def _insufficient(
        self, engine: Engine, smallest: MemoryEstimate, others: int
    ) -> InsufficientMemory:
        name, available = engine.model.name, max(0, self.limit - others)
        availability = (
            f"{available / GB:.2f} of {self.limit / GB:.2f} GB (MEMORY_LIMIT) are available"
        )
        fixes = ["use a smaller model or a smaller quantization", "raise MEMORY_LIMIT"]
        if others:
            availability += f", since pinned models use {others / GB:.2f} GB"
            fixes.append("unload or unpin other models")
        weights, tokens = engine.files.size_bytes / GB, smallest.sizing.limits.pool_tokens
        log.error("model rejected", model=name, needed=smallest.needed, available=available)
        return InsufficientMemory(
            f"'{name}' does not fit into memory. It needs {smallest.needed / GB:.2f} GB on "
            f"{engine.adapter.name} (files: {weights:.2f} GB, KV cache: {tokens} tokens), "
            f"and {availability}. To make it fit, {', '.join(fixes)}, or add memory.",
            retry=False,
        )


def plan(adapter: Adapter, files: Model, settings: Settings, memory: int) -> Sizing:
    """Size an engine for this machine, or for the GPUs set for its model.

    Args:
        adapter: adapter of the engine.
        files: the files to load.
        settings: the service's settings.
        memory: bytes that the engine may assume as the machine's memory.
    """
    machine = describe()
    machine = replace(machine, memory_bytes=min(memory, machine.memory_bytes))
    return adapter.plan(files, settings, visible(machine, settings.models.of(files.name)))


def _not_planned(engine: Engine, error: Exception) -> ServiceError:
    model, name = engine.model.name, engine.adapter.name
    failure = explain(error, model, name, [])
    log.error("model load failed", model=model, engine=name, reason=failure.message)
    return failure
