"""One run: a service under load, faults, and what is left when both are over."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.probe import Probes, health_probe
from bench.progress import Progress
from tests.chaos import client
from tests.chaos.client import Attempt, Result
from tests.chaos.faults import ENDLESS, PAUSE, Fault, Injector, Tokens
from tests.chaos.requests import ECHO, REAL, CheckedRequest, RequestGenerator
from tests.chat.test_sandbox import LOOPS
from tests.fake_engine import write_model
from tests.models.gguf_files import TINY, write_gguf
from tests.service import ROOT, Service

# Clients that ask one request after another, and how many of them ask the fake engine.
CLIENTS, ECHOERS = 10, 2
WORKERS = 2
STALL = 4.0
GRACE = 10.0
# Seconds for what is given back at the end to be given back.
SETTLE = 10.0
WARM = 5.0
SAMPLE, PROBE = 2.0, 0.25
NO_FAULTS = 3.0


@dataclass
class Run:
    """What was seen.

    Args:
        seed: of the random numbers.
        seconds: how long there were faults.
    """

    seed: int
    seconds: float
    results: list[Result] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)
    health: Probes = field(default_factory=Probes)
    leaked: int = -1
    orphans: list[str] = field(default_factory=list)
    logged: list[dict[str, Any]] = field(default_factory=list)


def run(
    seed: int,
    seconds: float,
    folder: Path,
    progress: Progress | None = None,
    warm: float = WARM,
    pause: tuple[float, float] = PAUSE,
) -> Run:
    """Do it.

    Args:
        seed: of the random numbers.
        seconds: how long there are faults.
        folder: for models and logs.
        progress: shows the number of faults and requests.
        warm: seconds without faults before.
        pause: seconds between two faults, at least and at most.
    """
    seen = Run(seed, seconds)
    with Service(["run.py", "--no-fetch"], folder, _settings(folder)) as service:
        with health_probe(service.port, PROBE) as seen.health:
            asyncio.run(_Chaos(service, seen, progress).run(warm, pause))
        seen.orphans += _too_many(service)
        service.signal(signal.SIGTERM)
        try:
            service.wait_until_gone(GRACE + SETTLE)
        except AssertionError as left:
            seen.orphans.append(str(left))
        seen.logged = service.logged("errors.log")
    return seen


class _Chaos:
    """Clients and faults."""

    def __init__(self, service: Service, seen: Run, progress: Progress | None = None) -> None:
        self._service = service
        self._seen = seen
        self._progress = progress
        self._draw = random.Random(seen.seed)  # noqa: S311 - no secret
        self._tokens = Tokens()
        self._asker = RequestGenerator(random.Random(seen.seed + 1))  # noqa: S311 - no secret
        self._over = False

    async def run(self, warm: float, pause: tuple[float, float]) -> None:
        clients = [
            asyncio.create_task(self._ask(ECHO if number < ECHOERS else REAL))
            for number in range(CLIENTS)
        ]
        await asyncio.sleep(warm)
        weighing = asyncio.create_task(self._weigh())
        injector = Injector(self._service, self._draw, self._tokens, self._asker, STALL, pause)
        self._seen.faults = injector.faults
        try:
            await injector.run(time.monotonic() + self._seen.seconds)
            # What the last fault did is to be seen too.
            await asyncio.sleep(NO_FAULTS)
        finally:
            self._over = True
        await asyncio.gather(*clients)
        weighing.cancel()
        self._seen.leaked = await self._in_flight()

    async def _ask(self, model: str) -> None:
        while not self._over:
            request = self._asker.next(model)
            self._asker.sent(request)
            self._seen.results.append(await client.ask(self._service.port, request, self._told))
            self._asker.answered(request)
            self._show_progress()

    def _show_progress(self) -> None:
        if self._progress is not None:
            faults, results = len(self._seen.faults), len(self._seen.results)
            self._progress.set_detail(f"{faults} faults, {results:,} requests")

    def _told(self, asked: CheckedRequest, seen: Attempt) -> None:
        # A plain answer tells at its end only when it began.
        if asked.streamed and not seen.cached and not asked.cacheable:
            self._tokens.came(asked.model)

    async def _weigh(self) -> None:
        while True:
            self._seen.memory.append(await asyncio.to_thread(weigh, self._service))
            await asyncio.sleep(SAMPLE)

    async def _in_flight(self) -> int:
        """Requests that the supervisor holds places for, when nobody asks any more."""
        end = time.monotonic() + SETTLE
        while True:
            status = await asyncio.to_thread(self._service.status)
            engines = sum(engine["in_flight"] + engine["queue"] for engine in status["engines"])
            held = int(status["requests_in_flight"]) + engines
            if not held or time.monotonic() > end:
                return held
            await asyncio.sleep(0.1)


def weigh(service: Service) -> dict[str, float]:
    """Weigh the processes of a service, in MiB; of each kind the largest."""
    found: dict[str, float] = {}
    for process in service.processes():
        with contextlib.suppress(psutil.Error):
            size = process.memory_full_info().pss / 2**20
            kind = kind_of(service, process)
            found[kind] = round(max(size, found.get(kind, 0.0)), 1)
    return found


def kind_of(service: Service, process: psutil.Process) -> str:
    """Name what a process is to its service."""
    if process.pid == service.pid:
        return "master"
    if process.ppid() == service.pid:
        return "worker"
    command = " ".join(process.cmdline())
    for word, kind in _KINDS.items():
        if word in command:
            return kind
    return "other"


_KINDS = {
    "guard.py": "guard",
    "vllm_obtain.supervisor": "supervisor",
    "fake_engine_server": "fake engine",
    "llama_cpp/server.py": "llama.cpp",
    "sandbox_worker": "sandbox",
}


def _too_many(service: Service) -> list[str]:
    """Processes and sockets beyond what a service has that was left alone."""
    wanted = {"master": 1, "worker": WORKERS, "supervisor": 1, "guard": 2}
    wanted |= {"fake engine": 1, "llama.cpp": 1}
    # A worker has up to three, as many as it needed at once.
    allowed = {"sandbox": 3 * WORKERS}
    end = time.monotonic() + SETTLE
    while True:
        kinds = [kind_of(service, process) for process in service.processes()]
        sockets = len(list(service.runtime.glob("e*.sock")))
        wrong = [
            f"{kinds.count(kind)} x {kind}, not {wanted.get(kind, 0)}"
            for kind in sorted({*kinds, *wanted})
            if not wanted.get(kind, 0) <= kinds.count(kind) <= (wanted | allowed).get(kind, 0)
        ]
        wrong += [f"{sockets} sockets of engines, not 2"] if sockets != 2 else []
        if not wrong or time.monotonic() > end:
            return wrong
        time.sleep(0.1)


def _settings(folder: Path) -> dict[str, str]:
    models = folder / "models"
    models.mkdir()
    shutil.copytree(ROOT / "models" / REAL, models / REAL)
    write_model(models, ECHO, pace=0.02)
    write_gguf(models / f"{ENDLESS}.gguf", {**TINY, "tokenizer.chat_template": LOOPS})
    return {
        "MODELS_DIR": str(models),
        "MODEL_SETTINGS": str(folder / "models.toml"),
        "INFERENCE_ENGINE": "llama_cpp",
        "MODEL_ENGINES": f"{ECHO}=fake",
        "EXTRA_ENGINES": "fake=tests.fake_engine:FakeAdapter",
        "DEFAULT_MODEL": REAL,
        "MAX_CONCURRENT_MODELS": "2",
        "WORKERS": str(WORKERS),
        "STALL_SECONDS": str(STALL),
        "GRACE_PERIOD": str(GRACE),
        "DEVICE_TYPE": "cpu",
    }
