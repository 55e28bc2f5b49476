"""The supervisor's side of the control socket: frames and messages, and the books behind them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from tests.fuzz.core.loop import Case
from tests.fuzz.core.mutate import damage, pick
from vllm_obtain.config.settings import Settings
from vllm_obtain.control import messages
from vllm_obtain.control.framing import frame
from vllm_obtain.control.messages import (
    AcquireLease,
    CallerIdentity,
    EngineLimits,
    ReleaseLease,
    RequestRecord,
)
from vllm_obtain.control.owners import Owners
from vllm_obtain.errors import ModelNotFound
from vllm_obtain.metrics.registry import GaugeCollector, MetricsRegistry
from vllm_obtain.supervisor import control_server
from vllm_obtain.supervisor.control_server import ControlSession
from vllm_obtain.supervisor.handlers import Handlers
from vllm_obtain.supervisor.leases import Leases
from vllm_obtain.supervisor.response_cache import ResponseCache
from vllm_obtain.supervisor.response_store import ResponseStore
from vllm_obtain.supervisor.scheduling.admission import AdmissionQueue
from vllm_obtain.supervisor.scheduling.quarantine import Quarantine
from vllm_obtain.supervisor.scheduling.quotas import CallerQuotas

# After so many connections there are new books: they are kept for as long as a service runs.
RENEWED = 500
CALLER = CallerIdentity("key-1", 5, 1000, False)
ACQUIRES = [
    AcquireLease("a", 10, 20, 0.0, fingerprint=b"f" * 24, prefix_hashes=(b"me", b"x")),
    AcquireLease("a", 10, None, 0.0, 2, CALLER, b"g" * 24),
    AcquireLease("b", 10, 20, 0.0),
]
MESSAGES = [
    *ACQUIRES,
    *(messages.CacheLookup(b"k" * 24, one) for one in ACQUIRES),
    messages.RegisterOwner("1", 1, 0.0),
    messages.ChargeQuota(CALLER),
    messages.AdjustReservation(7),
    messages.ExtendLease(100),
    ReleaseLease("stop", 5, 1, 5, 0.1, 0.2),
    ReleaseLease("error", lost=True),
    messages.LoadModel("a", True, "auto"),
    messages.LoadModel("b", False),
    messages.UnloadModel("a"),
    messages.Status(),
    messages.Metrics(),
    messages.Usage(),
    messages.ReportRequests([RequestRecord("/health", "GET", 200, 0.1, "", "key-1")]),
    messages.CacheStore(b"answer"),
    messages.StoreResponse(b"me", "r", None, ["i"], b"body"),
    messages.StoreResponse(b"me", "s", "r", [], b"body"),
    messages.LoadResponse(b"me", "s", whole=True),
    messages.DeleteResponse(b"me", "r"),
    messages.ListQuarantine(),
    messages.ClearQuarantine(),
]
FRAMES = [frame(message) for message in MESSAGES]


class Pool:
    """One model that is ready, on an engine of nothing."""

    def __init__(self, quarantine: Quarantine) -> None:
        self.quarantine = quarantine
        self.admission = AdmissionQueue(EngineLimits(4, 4096, 1024), "fake", isolates_by_slot=True)
        self.engine: Any = SimpleNamespace(
            adapter=SimpleNamespace(name="fake", isolates_by_slot=True),
            model=SimpleNamespace(name="a"),
            socket=Path("/x"),
            limits=EngineLimits(4, 4096, 1024),
            loaded_at=1.0,
            admission=self.admission,
            queue_for_new_requests=self.admission,
            note_activity=lambda: None,
            suspect=lambda: None,
        )
        self.engines = [self.engine]

    def ready_engine(self, model: str) -> Any:
        return self.engine if model == "a" else None

    def ensure_loading(self, model: str) -> Any:
        if model != "a":
            raise ModelNotFound(model, [])
        return self.engine

    def identity(self, model: str) -> bytes:
        return str(self.ensure_loading(model).loaded_at).encode()

    async def load(self, message: messages.LoadModel | messages.UnloadModel) -> messages.Reply:
        return messages.LoadStatus(self.ensure_loading(message.model).adapter.name, "ready")


class FakeState:
    """What a connection works on."""

    def __init__(self, settings: Settings) -> None:
        self.metrics_registry = MetricsRegistry()
        self.quotas = CallerQuotas()
        self.pool = Pool(Quarantine(settings.quarantine_seconds))
        self.leases = Leases(self.pool, settings, self.metrics_registry)  # type: ignore[arg-type]
        self.response_cache = ResponseCache(100)
        self.response_store = ResponseStore(2**20)
        self.owners = Owners()
        self.has_scanned = asyncio.Event()
        self.has_scanned.set()
        self.handlers: Handlers = {
            messages.RegisterOwner: self.join,
            messages.Status: lambda _: self.status(),
            messages.Metrics: lambda _: self.metrics(),
            messages.ReportRequests: self.count,
            messages.LoadModel: self.pool.load,
            messages.UnloadModel: self.pool.load,
            **self.quotas.handlers,
            **self.pool.quarantine.handlers,
            **self.response_store.handlers,
        }

    def join(self, message: messages.RegisterOwner) -> messages.Reply:
        self.owners.add(message.owner_pid, message.owner_start)
        return messages.OwnerRegistered("1", 1)

    def count(self, message: messages.ReportRequests) -> None:
        self.metrics_registry.count_requests(message.served, message.spans_lost)
        self.quotas.count_requests(message.served)

    async def status(self) -> messages.StatusReply:
        return messages.StatusReply(1, 0.0, [], {}, 0, {}, {}, [], {})

    async def metrics(self) -> messages.MetricsReply:
        return messages.MetricsReply(
            self.metrics_registry.text(GaugeCollector([], {}, 0.0, 0, {}, {}))
        )


class Transport(asyncio.Transport):
    """Takes what is written, and can be closed."""

    closed = False

    def write(self, data: Any) -> None:
        assert len(data) >= 4

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class _Log:
    """What the connection says: a failure of its own is a finding."""

    def warning(self, *_: object, **__: object) -> None: ...

    def exception(self, *_: object, **__: object) -> None:
        raise AssertionError("control request failed")


class Control:
    """A connection: whatever comes on it, all that it held is given back at its end."""

    name = "control"

    def __init__(self) -> None:
        self._settings = Settings.load({})
        self._loop = asyncio.new_event_loop()
        self._count = 0
        self._desk = FakeState(self._settings)

    def make(self, chance: Random) -> Case:
        """Frames, whole ones and others, in the pieces in which they come."""
        whole = b"".join(pick(chance, FRAMES) for _ in range(1 + int(chance.random() * 6)))
        if chance.random() < 0.6:
            whole = damage(whole, chance)
        pieces, at = [], 0
        while at < len(whole):
            size = 1 + int(chance.random() ** 2 * 300)
            pieces.append(whole[at : at + size])
            at += size
        return pieces

    def run(self, case: Case) -> None:
        """Connect, say it, and leave."""
        self._count += 1
        if self._count % RENEWED == 0:
            self._desk = FakeState(self._settings)
        before, control_server.log = control_server.log, _Log()  # type: ignore[assignment]
        try:
            self._loop.run_until_complete(self._talk(case))
        except BaseException:
            self._desk = FakeState(self._settings)  # the next one begins anew
            raise
        finally:
            control_server.log = before

    async def _talk(self, case: Case) -> None:
        connection, transport = ControlSession(self._desk), Transport()  # type: ignore[arg-type]
        connection.connection_made(transport)
        for piece in case:
            connection.data_received(piece)
            if connection._busy:
                await asyncio.sleep(0)
        connection.connection_lost(None)
        if (task := connection._task) is not None:
            await asyncio.wait({task}, timeout=1)
            if task.done() and not task.cancelled():
                task.result()
        desk = self._desk
        assert desk.leases.in_flight == 0, "a lease was not given back"
        places = desk.pool.admission
        assert (places.in_flight, places.queue, places.reserved) == (0, 0, 0)
        places.clear_suspicion()
