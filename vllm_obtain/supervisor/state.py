"""The parts of a supervisor, and its status."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from vllm_obtain.config.settings import Settings
from vllm_obtain.control import messages
from vllm_obtain.control.heartbeat import WorkerHeartbeats
from vllm_obtain.control.owners import Owners
from vllm_obtain.metrics.registry import GaugeCollector, MetricsRegistry
from vllm_obtain.models import ModelCatalog
from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.engine.states import OCCUPIES
from vllm_obtain.supervisor.handlers import Handlers
from vllm_obtain.supervisor.leases import Leases
from vllm_obtain.supervisor.memory.sampler import ResourceSample, ResourceSampler
from vllm_obtain.supervisor.models.downloads import Downloads
from vllm_obtain.supervisor.models.inspections import ModelInspections
from vllm_obtain.supervisor.models.pool import Pool
from vllm_obtain.supervisor.models.removal import ModelRemoval
from vllm_obtain.supervisor.models.version_update import VersionUpdate
from vllm_obtain.supervisor.response_cache import ResponseCache
from vllm_obtain.supervisor.response_store import ResponseStore
from vllm_obtain.supervisor.scheduling.quotas import CallerQuotas


class SupervisorState:
    """The parts of one supervisor.

    Args:
        settings: the service's settings.
        catalogue: the models on disk.
        folder: the instance's runtime folder.
        version: fingerprint of the code and settings (`runtime_dir.version`).
    """

    def __init__(
        self, settings: Settings, catalogue: ModelCatalog, folder: Path, version: str
    ) -> None:
        self.metrics_registry = MetricsRegistry()
        self.quotas = CallerQuotas()
        self.sampler = ResourceSampler()
        self.pool = Pool(settings, catalogue, folder, self.metrics_registry, self.sampler)
        self.leases = Leases(self.pool, settings, self.metrics_registry)
        self.response_cache = ResponseCache(settings.cache_size)
        self.response_store = ResponseStore(settings.responses_store_mb * 1024 * 1024)
        self.downloads = Downloads(folder, VersionUpdate(self.pool, catalogue, settings.models_dir))
        self.inspections = ModelInspections(folder)
        self.removal = ModelRemoval(self.pool, catalogue, settings.models_dir)
        self.owners = Owners()
        self.worker_heartbeats = WorkerHeartbeats(settings.heartbeat_seconds)
        self.version = version
        self.stop = asyncio.Event()
        # Set when the models on disk are known.
        self.has_scanned = asyncio.Event()
        self._started_at = time.monotonic()
        # The messages of leases and of the response cache belong to a connection, and are handled
        # by `control_server`.
        self.handlers: Handlers = {
            messages.RegisterOwner: self._register_owner,
            messages.Status: lambda _: self.status(),
            messages.Metrics: lambda _: self.metrics(),
            messages.ReportRequests: self._count_requests,
            messages.StopSupervisor: lambda _: self.stop.set(),
            **self.quotas.handlers,
            **self.pool.handlers,
            **self.response_store.handlers,
            **self.downloads.handlers,
            **self.inspections.handlers,
            **self.removal.handlers,
        }

    async def status(self) -> messages.StatusReply:
        pids = [engine.pid for engine in self.pool.engines if engine.pid is not None]
        sample = await self.sampler.read(pids)
        return messages.StatusReply(
            pid=os.getpid(),
            uptime=time.monotonic() - self._started_at,
            engines=[
                _describe(engine, waiting, sample)
                for engine, waiting in self.pool.engines_with_waiting
            ],
            system=sample.system,
            in_flight=self.leases.in_flight,
            cache=self.response_cache.size,
            responses=self.response_store.size,
            handovers=self.pool.switches.last,
            memory=self.pool.memory_budget.usage,
        )

    async def metrics(self) -> messages.MetricsReply:
        """Return all metrics in the Prometheus text format."""
        status = await self.status()
        gauges = GaugeCollector(
            status.engines,
            status.system,
            status.uptime,
            status.in_flight,
            status.cache,
            status.memory,
        )
        return messages.MetricsReply(self.metrics_registry.text(gauges))

    def _register_owner(self, message: messages.RegisterOwner) -> messages.OwnerRegistered:
        self.owners.add(message.owner_pid, message.owner_start)
        if message.worker_pid:
            self.worker_heartbeats.note(message.worker_pid)
        return messages.OwnerRegistered(self.version, os.getpid())

    def _count_requests(self, message: messages.ReportRequests) -> None:
        self.metrics_registry.count_requests(message.served, message.spans_lost)
        self.quotas.count_requests(message.served)


def _describe(engine: Engine, waiting: int, sample: ResourceSample) -> messages.EngineStatus:
    """Describe an engine; `waiting` requests wait until it is ready."""
    limits = engine.limits
    admission = engine.admission
    return messages.EngineStatus(
        engine=engine.adapter.name,
        model=engine.model.name,
        state=engine.state.value,
        pid=engine.pid,
        memory_bytes=sample.memory.get(engine.pid) if engine.pid else None,
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
