"""Kills, stops and starves the processes of a service at random, from a seed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from tests.chaos.client import RETRIES
from tests.chaos.requests import ECHO, REAL, RequestGenerator
from tests.service import Service
from tests.waiting import runs
from vllm_obtain.supervisor.engine.backoff import SETTLED

# Seconds between two faults, that a process is stopped, and that processors are short.
PAUSE = (0.5, 2.5)
STOPPED = (0.3, 2.0)
STARVED = (1.0, 3.0)
# Above what a stopped engine or a load may take.
PATIENCE = 40.0
# Within which a request that met the end of its worker is answered.
UNTIL_ANSWERED = 20.0
# Between a kill and the first token that cannot have been on its way already.
IN_FLIGHT = 0.1
# A model whose chat template never ends.
ENDLESS = "endless"
_BURNER = "import sys, time\nend = time.time() + float(sys.argv[1])\nwhile time.time() < end: pass"


@dataclass
class Fault:
    """One thing that was done.

    Args:
        kind: what, and to whom.
        at: monotonic seconds.
        model: whose engine, if it was one.
        recovered: seconds until the model's next token; None if nobody looked.
        start: seconds that the next engine took by its own account.
    """

    kind: str
    at: float
    model: str = ""
    recovered: float | None = None
    start: float | None = None
    failed: str = ""


@dataclass
class Tokens:
    """When each model last gave a token that no cache had."""

    last: dict[str, float] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def came(self, model: str) -> None:
        """Note one."""
        self.last[model] = time.monotonic()
        self.news.set()

    async def after(self, model: str, moment: float, timeout: float) -> float | None:
        """Wait for the first one after a moment; returns when it came, None if it did not."""
        end = time.monotonic() + timeout
        while self.last.get(model, 0.0) <= moment:
            if time.monotonic() > end:
                return None
            self.news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.news.wait(), 0.5)
        return self.last[model]


class Injector:
    """Causes faults until it is told to stop.

    Args:
        service: whose processes.
        draw: the random numbers of this run.
        tokens: told by the clients.
        asker: makes up their requests.
        stall: STALL_SECONDS of the service.
        pause: seconds between two faults, at least and at most.
    """

    def __init__(
        self,
        service: Service,
        draw: random.Random,
        tokens: Tokens,
        asker: RequestGenerator,
        stall: float,
        pause: tuple[float, float] = PAUSE,
    ) -> None:
        self._service = service
        self._draw = draw
        self._tokens = tokens
        self._asker = asker
        self._stall = stall
        self._pause = pause
        self._burners: list[subprocess.Popen[bytes]] = []
        self.faults: list[Fault] = []
        self._deck: list[Callable[[], Any]] = []

    async def run(self, until: float) -> None:
        """Cause faults until a moment of the monotonic clock."""
        try:
            while time.monotonic() < until:
                await asyncio.sleep(self._draw.uniform(*self._pause))
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    await self._next()()
        finally:
            self.end()

    def end(self) -> None:
        """Leave nothing behind."""
        for burner in self._burners:
            burner.kill()
            burner.wait()

    def _next(self) -> Callable[[], Any]:
        """Draw from a deck, so that a short run has every kind too."""
        if not self._deck:
            self._deck = [
                self._kill_engine,
                self._kill_engine,
                self._kill_engine,
                self._kill_worker,
                self._kill_worker,
                self._kill_supervisor,
                self._kill_both,
                self._kill_twice,
                self._stop_engine,
                self._stop_engine_for_good,
                self._stop_worker,
                self._stop_supervisor,
                self._starve,
                self._kill_sandbox,
                self._stop_sandbox,
                self._run_endless_template,
            ]
            self._draw.shuffle(self._deck)
        return self._deck.pop()

    async def _kill_engine(self) -> None:
        """Measured without long prompts: the next token would wait until they are read."""
        model = self._draw.choice([REAL, REAL, ECHO])
        async with self._asker.short():
            engine = await self._engine(model)
            # One that is killed as soon as it serves is given a pause.
            await asyncio.sleep(SETTLED)
            fault = self._done("kill engine", model)
            os.kill(engine["pid"], signal.SIGKILL)
            await self._recover(fault)

    async def _kill_twice(self) -> None:
        """Kill an engine, and the next one while it loads."""
        model = self._draw.choice([REAL, ECHO])
        engine = await self._engine(model)
        self._done("kill engine, and the next as it loads", model)
        os.kill(engine["pid"], signal.SIGKILL)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = [e for e in (await self._status())["engines"] if e["model"] == model]
            pid = found[0]["pid"] if found else None
            if pid not in (None, engine["pid"]):
                os.kill(pid, signal.SIGKILL)
                return
            await asyncio.sleep(0.02)

    async def _kill_worker(self) -> None:
        worker = await self._any_worker()
        self._done("kill worker")
        worker.kill()

    async def _any_worker(self) -> psutil.Process:
        """Choose one to kill; no client library asks a fourth time, so three do not follow soon."""
        killed = [fault.at for fault in self.faults if "worker" in fault.kind and _kills(fault)]
        if len(killed) >= RETRIES:
            await asyncio.sleep(killed[-RETRIES] + UNTIL_ANSWERED - time.monotonic())
        return self._draw.choice(self._workers())

    async def _kill_supervisor(self) -> None:
        pid = (await self._status())["supervisor"]["pid"]
        self._done("kill supervisor")
        os.kill(pid, signal.SIGKILL)

    async def _kill_both(self) -> None:
        """Kill an engine and a worker in the same moment."""
        worker = await self._any_worker()
        engine = await self._engine(REAL)
        self._done("kill engine and worker")
        os.kill(engine["pid"], signal.SIGKILL)
        worker.kill()

    async def _stop_engine(self) -> None:
        engine = await self._engine(self._draw.choice([REAL, ECHO]))
        self._done("stop engine", engine["model"])
        await self._stopped(psutil.Process(engine["pid"]))

    async def _stop_engine_for_good(self) -> None:
        """Leave it to the watchdog."""
        engine = await self._engine(self._draw.choice([REAL, ECHO]))
        process = psutil.Process(engine["pid"])
        fault = self._done("stop engine for good", engine["model"])
        process.suspend()
        end = time.monotonic() + self._stall + PATIENCE
        try:
            while runs(process):
                if time.monotonic() > end:
                    fault.failed = f"nobody ended it within {self._stall + PATIENCE:.0f} s"
                    return
                await asyncio.sleep(0.05)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    async def _stop_worker(self) -> None:
        self._done("stop worker")
        await self._stopped(self._draw.choice(self._workers()))

    async def _stop_supervisor(self) -> None:
        pid = (await self._status())["supervisor"]["pid"]
        self._done("stop supervisor")
        await self._stopped(psutil.Process(pid))

    async def _starve(self) -> None:
        """Have processes that compute take the processors, two for each of them."""
        seconds = self._draw.uniform(*STARVED)
        self._done("starve")
        command = [sys.executable, "-S", "-c", _BURNER, str(seconds)]
        self._burners += [subprocess.Popen(command) for _ in range(2 * (os.cpu_count() or 1))]
        await asyncio.sleep(seconds)

    async def _kill_sandbox(self) -> None:
        found = self._sandboxes()
        self._done("kill sandbox")
        for process in found:
            process.kill()

    async def _stop_sandbox(self) -> None:
        process = self._draw.choice(self._sandboxes())
        self._done("stop sandbox")
        await self._stopped(process)

    async def _run_endless_template(self) -> None:
        """Chat with a model whose template never ends, while models are listed."""
        fault = self._done("endless template")
        body = {"model": ENDLESS, "messages": [{"role": "user", "content": "Hi"}]}
        paths = [("/v1/chat/completions", body)] * 4 + [("/v1/models", None)]
        asked = [asyncio.to_thread(self._service.request, *each) for each in paths]
        *chats, _ = await asyncio.gather(*asked, return_exceptions=True)
        for result in chats:
            if isinstance(result, tuple) and result[0] == 200:
                fault.failed = "it was answered"

    def _sandboxes(self) -> list[psutil.Process]:
        processes = self._service.processes()
        found = [process for process in processes if "sandbox_worker" in _command(process)]
        if not found:
            raise psutil.NoSuchProcess(self._service.pid)
        return found

    async def _stopped(self, process: psutil.Process) -> None:
        process.suspend()
        try:
            await asyncio.sleep(self._draw.uniform(*STOPPED))
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    async def _recover(self, fault: Fault) -> None:
        """Wait for the next token, and compare with what the engine says of its start."""
        token = await self._tokens.after(fault.model, fault.at + IN_FLIGHT, PATIENCE)
        if token is None:
            fault.failed = f"no token within {PATIENCE:g} s"
            return
        fault.recovered = token - fault.at
        with contextlib.suppress(TimeoutError, OSError):
            fault.start = (await self._engine(fault.model))["load_seconds"]

    def _done(self, kind: str, model: str = "") -> Fault:
        fault = Fault(kind, time.monotonic(), model)
        self.faults.append(fault)
        return fault

    def _workers(self) -> list[psutil.Process]:
        found = psutil.Process(self._service.pid).children()
        if not found:
            raise psutil.NoSuchProcess(self._service.pid)
        return found

    async def _status(self) -> Any:
        return await asyncio.to_thread(self._service.json, "/v1/system/status", timeout=PATIENCE)

    async def _engine(self, model: str) -> Any:
        """The engine of a model, once it is ready."""
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, AssertionError):
                for engine in (await self._status())["engines"]:
                    if engine["model"] == model and engine["state"] == "ready":
                        return engine
            if time.monotonic() > end:
                raise TimeoutError(f"{model} was not ready within {PATIENCE:g} s")
            await asyncio.sleep(0.05)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kills(fault: Fault) -> bool:
    return fault.kind.startswith("kill")
