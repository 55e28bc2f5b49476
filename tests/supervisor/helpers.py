"""What the tests of the supervisor share: a pool with fake engines, and ways to wait."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from tests.fake_engine import ENVIRONMENT
from vllm_obtain.messages import Acquire, Caller, Release
from vllm_obtain.metrics import Numbers
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.lease import Lease, Leases
from vllm_obtain.supervisor.meter import Meter
from vllm_obtain.supervisor.pool import Pool
from vllm_obtain.supervisor.service import fresh_catalogue

LIMIT = 30.0
DONE = Release("stop")


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test, for LIMIT seconds at most."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(LIMIT):
                await test(*args, **kwargs)

        asyncio.run(limited())

    return run


def settings_for(models: Path, **env: Any) -> Settings:
    """Settings with the fake engine."""
    given = {name.upper(): str(value) for name, value in env.items()}
    return Settings.load({**ENVIRONMENT, "MODELS_DIR": str(models), "PORT": "1", **given})


class Rig:
    """A pool and its leases, in this process."""

    def __init__(self, models: Path, runtime: Path, **env: Any) -> None:
        settings = settings_for(models, **env)
        self.catalogue = fresh_catalogue(settings)
        self.numbers = Numbers()
        self.meter = Meter()
        self.pool = Pool(settings, self.catalogue, runtime, self.numbers, self.meter)
        self.leases = Leases(self.pool, settings, self.numbers)

    def engine(self, model: str) -> Engine:
        (engine,) = [each for each in self.pool.engines if each.model.name == model]
        return engine

    def engine_of(self, adapter: str) -> Engine:
        """The one engine of that kind."""
        (engine,) = [each for each in self.pool.engines if each.adapter.name == adapter]
        return engine

    async def lease(self, model: str, **more: Any) -> Lease:
        """Acquire as the control socket does: at once if possible."""
        request = asking(model, **more)
        return self.leases.try_acquire(request) or await self.leases.acquire(request)

    def asked(self, model: str, **more: Any) -> asyncio.Task[Lease]:
        """Acquire in the background."""
        return asyncio.create_task(self.lease(model, **more))


def asking(
    model: str,
    prompt_tokens: int = 10,
    max_tokens: int | None = 10,
    timeout: float = LIMIT,
    fingerprint: bytes = b"",
    key: str = "",
) -> Acquire:
    caller = Caller(key)
    return Acquire(
        model, prompt_tokens, max_tokens, timeout, caller=caller, fingerprint=fingerprint
    )


@contextlib.asynccontextmanager
async def rig(models: Path, runtime: Path, **env: Any) -> AsyncIterator[Rig]:
    """A rig that leaves no process."""
    made = Rig(models, runtime, **env)
    try:
        yield made
    finally:
        await made.pool.close()
        made.meter.close()


async def until(check: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait for what sends no event."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"still {found!r} after {seconds} s"
        await asyncio.sleep(0.005)
    return found


async def turn() -> None:
    """Let everything that is ready to run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


def lives(pid: int | None) -> bool:
    """Whether a process runs."""
    assert pid is not None
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
