"""What engines may take of the machine's memory, and what each of them will: estimates in bytes.

Engines in the memory of a GPU of their own are not counted: vLLM shares that out by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_obtain.engines.base import Launch
from vllm_obtain.engines.honour import beside_bytes, value_bytes
from vllm_obtain.errors import InsufficientMemory
from vllm_obtain.hardware import describe, device
from vllm_obtain.log import get_logger
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor import fitting
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.life import planned
from vllm_obtain.supervisor.states import OCCUPIES

log = get_logger("vllm_obtain.models")

# Shares of the memory that an engine is told there is, until what it plans fits: its cache is the
# part that can be smaller.
SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)
_SOCKET = Path("not-yet")
GB = 1e9
ABOUT_ALL = 0.85


@dataclass(frozen=True)
class Estimate:
    """What an engine will take.

    Args:
        needed: bytes in all.
        machine: the memory that it is told there is, so that it plans for no more.
        on_gpu: whether in the memory of a GPU of its own, where nobody counts.
        tokens: what its cache will hold.
    """

    needed: int
    machine: int
    on_gpu: bool = False
    tokens: int = 0


class Ledger:
    """The memory of a service.

    Args:
        settings: have MEMORY_LIMIT.
        engines: lists all engines.
    """

    def __init__(self, settings: Settings, engines: Callable[[], Sequence[Engine]]) -> None:
        self._settings = settings
        self._engines = engines

    @property
    def limit(self) -> int:
        """Bytes that all engines may take together."""
        limit = self._settings.memory_limit
        return int(limit * describe().memory_bytes if limit <= 1 else limit)

    @property
    def _machine(self) -> int:
        """What an engine takes the machine's memory to be, at most.

        A limit that is about all there is leaves the engines' own rules alone.
        """
        total = describe().memory_bytes
        return total if self.limit > total * ABOUT_ALL else self.limit

    @property
    def reserved(self) -> int:
        """Bytes that are promised, to loads under way too."""
        return sum(engine.reserved for engine in self._engines() if engine.state in OCCUPIES)

    @property
    def told(self) -> dict[str, int]:
        """Both, for the status page."""
        return {"limit_bytes": self.limit, "reserved_bytes": self.reserved}

    def estimate(self, engine: Engine, others: int = 0) -> Estimate:
        """Work out what an engine will take, with a cache that is small enough to fit.

        Args:
            engine: its files are prepared.
            others: bytes of those that will not make room.

        Raises:
            InsufficientMemory: it does not fit with any cache.
        """
        on_gpu = fitting.on_own_gpu(describe(), device(self._settings.device_type))
        room, least = self.limit - others, None
        for share in SHARES:
            memory = int(self._machine * share)
            try:
                launch = planned(engine.adapter, engine.files, self._settings, _SOCKET, memory)
            except Exception:
                if least is None:  # its start will meet the same problem, and explain it
                    return Estimate(0, memory)
                break  # with so little it could not be what its owner wants
            needed = self._need(engine, launch, on_gpu)
            if on_gpu:
                return Estimate(needed, describe().memory_bytes, True, launch.limits.pool_tokens)
            least = Estimate(needed, memory, tokens=launch.limits.pool_tokens)
            if needed <= room:
                return least
        assert least is not None  # noqa: S101 - SHARES has one at least
        raise self._refusal(engine, least, others)

    def _need(self, engine: Engine, launch: Launch, on_gpu: bool) -> int:
        owner = self._settings.models.of(engine.files.name)
        overhead = fitting.OVERHEAD_GPU if on_gpu else engine.adapter.overhead_bytes
        return beside_bytes(owner) + fitting.need(
            engine.files, launch.limits, overhead, value_bytes(owner), launch.weights_bytes
        )

    def _refusal(self, engine: Engine, least: Estimate, others: int) -> InsufficientMemory:
        name, room = engine.model.name, max(0, self.limit - others)
        have = f"{room / GB:.2f} of {self.limit / GB:.2f} GB (MEMORY_LIMIT) are to be had"
        fixes = ["a smaller model or one of fewer bits", "a higher MEMORY_LIMIT"]
        if others:
            have += f", since pinned models hold {others / GB:.2f} GB"
            fixes.append("unloading or not pinning the others")
        weights = engine.files.size_bytes / GB
        log.error("model refused", model=name, needed=least.needed, room=room)
        return InsufficientMemory(
            f"'{name}' cannot be loaded: it needs {least.needed / GB:.2f} GB on "
            f"{engine.adapter.name} (its files are {weights:.2f} GB; with a cache of only "
            f"{least.tokens} tokens), and {have}. What would make it fit: {', '.join(fixes)}, or "
            "more memory.",
            retry=False,
        )
