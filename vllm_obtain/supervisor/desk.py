"""What the connections of a supervisor work on, and how it describes itself."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from vllm_obtain import messages
from vllm_obtain.catalogue import Catalogue
from vllm_obtain.metrics import Gauges, Numbers
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.accounts import Accounts
from vllm_obtain.supervisor.answers import Answers
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.errand import Looks
from vllm_obtain.supervisor.kept import KeptResponses
from vllm_obtain.supervisor.lease import Leases
from vllm_obtain.supervisor.meter import Meter, Reading
from vllm_obtain.supervisor.owners import Owners
from vllm_obtain.supervisor.pool import Pool
from vllm_obtain.supervisor.pulls import Pulls
from vllm_obtain.supervisor.removal import Removal
from vllm_obtain.supervisor.replacement import Replacement
from vllm_obtain.supervisor.states import OCCUPIES


class Desk:
    """The parts of one supervisor.

    Args:
        settings: the owner's settings.
        catalogue: the models on disk.
        folder: the instance's runtime folder.
        version: of the code and the settings this runs with.
    """

    def __init__(
        self, settings: Settings, catalogue: Catalogue, folder: Path, version: str
    ) -> None:
        self.numbers = Numbers()
        self.accounts = Accounts()
        self.meter = Meter()
        self.pool = Pool(settings, catalogue, folder, self.numbers, self.meter)
        self.leases = Leases(self.pool, settings, self.numbers)
        self.answers = Answers(settings.cache_size)
        self.responses = KeptResponses(settings.responses_store_mb * 1024 * 1024)
        self.pulls = Pulls(folder, Replacement(self.pool, catalogue, settings.models_dir))
        self.looks = Looks(folder)
        self.removal = Removal(self.pool, catalogue, settings.models_dir)
        self.owners = Owners()
        self.version = version
        self.stop = asyncio.Event()
        self._began = time.monotonic()

    async def status(self) -> messages.StatusReply:
        """Say what is going on."""
        pids = [engine.pid for engine in self.pool.engines if engine.pid is not None]
        reading = await self.meter.read(pids)
        return messages.StatusReply(
            pid=os.getpid(),
            uptime=time.monotonic() - self._began,
            engines=[_describe(engine, waiting, reading) for engine, waiting in self.pool.lines],
            system=reading.system,
            in_flight=self.leases.in_flight,
            cache=self.answers.size,
            responses=self.responses.size,
            handovers=self.pool.handovers.last,
            memory=self.pool.ledger.told,
        )

    async def metrics(self) -> messages.MetricsReply:
        """Write all numbers."""
        now = await self.status()
        numbers = now.cache, now.memory
        gauges = Gauges(now.engines, now.system, now.uptime, now.in_flight, *numbers)
        return messages.MetricsReply(self.numbers.text(gauges))


def _describe(engine: Engine, waiting: int, reading: Reading) -> messages.EngineStatus:
    """Describe an engine for the status page, and how many wait for it to be ready."""
    limits = engine.launched.limits if engine.launched else None
    admission = engine.admission
    return messages.EngineStatus(
        engine=engine.adapter.name,
        model=engine.model.name,
        state=engine.state.value,
        pid=engine.pid,
        memory_bytes=reading.memory.get(engine.pid) if engine.pid else None,
        in_flight=admission.in_flight if admission else 0,
        queue=(admission.queue if admission else 0) + waiting,
        restarts=engine.restarts,
        last_error=engine.last_error,
        slots=limits.slots if limits else None,
        context=limits.context if limits else None,
        tokens_reserved=admission.reserved if admission else 0,
        tokens_pool=limits.pool_tokens if limits else None,
        load_seconds=engine.load_seconds,
        idle_seconds=None if engine.users else time.monotonic() - engine.last_used,
        reason=engine.choice.reason,
        stage=engine.stage,
        healthy=engine.healthy,
        quiet_seconds=round(engine.quiet, 3),
        stalls=engine.stalls,
        reserved_bytes=engine.reserved if engine.state in OCCUPIES else 0,
    )
