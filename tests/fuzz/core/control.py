"""The supervisor's side of the control socket: frames and messages, and the books behind them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from tests.fuzz.core.loop import Case
from tests.fuzz.core.mutate import damaged, pick
from vllm_obtain import messages
from vllm_obtain.errors import ModelNotFound
from vllm_obtain.messages import Acquire, Caller, Limits, Release, Served
from vllm_obtain.metrics import Gauges, Numbers
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor import control
from vllm_obtain.supervisor.accounts import Accounts
from vllm_obtain.supervisor.admission import Admission
from vllm_obtain.supervisor.answers import Answers
from vllm_obtain.supervisor.control import Connection
from vllm_obtain.supervisor.kept import KeptResponses
from vllm_obtain.supervisor.lease import Leases
from vllm_obtain.supervisor.owners import Owners
from vllm_obtain.supervisor.quarantine import Quarantine
from vllm_obtain.supervisor.wire import frame

# After so many connections there are new books: they are kept for as long as a service runs.
RENEWED = 500
CALLER = Caller("key-1", 5, 1000, False)
ACQUIRES = [
    Acquire("a", 10, 20, 0.0, fingerprint=b"f" * 24, trail=(b"me", b"x")),
    Acquire("a", 10, None, 0.0, 2, CALLER, b"g" * 24),
    Acquire("b", 10, 20, 0.0),
]
MESSAGES = [
    *ACQUIRES,
    *(messages.Recall(b"k" * 24, one) for one in ACQUIRES),
    messages.Join("1", 1, 0.0),
    messages.Spend(CALLER),
    messages.Settle(7),
    messages.Extend(100),
    Release("stop", 5, 1, 5, 0.1, 0.2),
    Release("error", lost=True),
    messages.Load("a", True, "auto"),
    messages.Load("b", False),
    messages.Unload("a"),
    messages.Status(),
    messages.Metrics(),
    messages.Usage(),
    messages.Report([Served("/health", "GET", 200, 0.1, "", "key-1")]),
    messages.Remember(b"answer"),
    messages.Keep(b"me", "r", None, ["i"], b"body"),
    messages.Keep(b"me", "s", "r", [], b"body"),
    messages.Fetch(b"me", "s", whole=True),
    messages.Forget(b"me", "r"),
    messages.Suspects(),
    messages.Pardon(),
]
FRAMES = [frame(message) for message in MESSAGES]


# ruff: noqa: ARG002 - as the real ones are asked


class Pool:
    """One model that is ready, on an engine of nothing."""

    def __init__(self, quarantine: Quarantine) -> None:
        self.quarantine = quarantine
        self.admission = Admission(Limits(4, 4096, 1024))
        launched = SimpleNamespace(limits=Limits(4, 4096, 1024))
        self.engine: Any = SimpleNamespace(
            adapter=SimpleNamespace(name="fake", pins_slots=True),
            model=SimpleNamespace(name="a"),
            socket=Path("/x"),
            launched=launched,
            loaded_at=1.0,
            admission=self.admission,
            incoming=self.admission,
            touch=lambda: None,
            doubt=lambda: None,
        )
        self.admission.engine = self.engine

    def ready(self, model: str) -> Any:
        return self.engine if model == "a" else None

    def summon(self, model: str) -> Any:
        if model != "a":
            raise ModelNotFound(model, [])
        return self.engine

    def identity(self, model: str) -> bytes:
        return str(self.summon(model).loaded_at).encode()

    def engine_name(self, model: str) -> str:
        return str(self.summon(model).adapter.name)

    def begun(self, model: str, engine: str | None) -> messages.Done:
        return messages.Done(self.engine_name(model), "ready")

    async def load(self, model: str, engine: str | None) -> Any:
        return self.summon(model)

    async def unload(self, model: str) -> str:
        self.summon(model)
        return "stopped"

    async def look_for(self, engine: str) -> None: ...


class Desk:
    """What a connection works on."""

    def __init__(self, settings: Settings) -> None:
        self.numbers = Numbers()
        self.accounts = Accounts()
        self.pool = Pool(Quarantine(settings.quarantine_seconds))
        self.leases = Leases(self.pool, settings, self.numbers)  # type: ignore[arg-type]
        self.answers = Answers(100)
        self.responses = KeptResponses(2**20)
        self.owners = Owners()
        self.version = "1"
        self.stop = asyncio.Event()

    async def status(self) -> messages.StatusReply:
        return messages.StatusReply(1, 0.0, [], {}, 0, {}, {}, [], {})

    async def metrics(self) -> messages.MetricsReply:
        return messages.MetricsReply(self.numbers.text(Gauges([], {}, 0.0, 0, {}, {})))


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
        raise AssertionError("a control request failed")


class Control:
    """A connection: whatever comes on it, all that it held is given back at its end."""

    name = "control"

    def __init__(self) -> None:
        self._settings = Settings.load({})
        self._loop = asyncio.new_event_loop()
        self._count = 0
        self._desk = Desk(self._settings)

    def make(self, chance: Random) -> Case:
        """Frames, whole ones and others, in the pieces in which they come."""
        whole = b"".join(pick(chance, FRAMES) for _ in range(1 + int(chance.random() * 6)))
        if chance.random() < 0.6:
            whole = damaged(whole, chance)
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
            self._desk = Desk(self._settings)
        before, control.log = control.log, _Log()  # type: ignore[assignment]
        try:
            self._loop.run_until_complete(self._talk(case))
        except BaseException:
            self._desk = Desk(self._settings)  # the next one begins anew
            raise
        finally:
            control.log = before

    async def _talk(self, case: Case) -> None:
        connection, transport = Connection(self._desk), Transport()  # type: ignore[arg-type]
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
        places.believe()
