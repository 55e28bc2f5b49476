"""What the tests of the supervisor share: a pool with fake engines, and ways to wait."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from tests.fake_engine import ENVIRONMENT
from tests.waiting import wait_until
from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import AcquireLease, CallerIdentity, ReleaseLease
from vllm_obtain.metrics.registry import MetricsRegistry
from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.engine.states import EngineState
from vllm_obtain.supervisor.leases import Lease, Leases
from vllm_obtain.supervisor.main import fresh_catalogue
from vllm_obtain.supervisor.memory.sampler import ResourceSampler
from vllm_obtain.supervisor.models.pool import Pool

LIMIT = 30.0
DONE = ReleaseLease("stop")


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
    variables = {name.upper(): str(value) for name, value in env.items()}
    return Settings.load({**ENVIRONMENT, "MODELS_DIR": str(models), "PORT": "1", **variables})


class Rig:
    """A pool and its leases, in this process."""

    def __init__(self, models: Path, runtime: Path, **env: Any) -> None:
        settings = settings_for(models, **env)
        self.catalogue = fresh_catalogue(settings)
        self.numbers = MetricsRegistry()
        self.meter = ResourceSampler()
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
        request = acquire_message(model, **more)
        return self.leases.try_acquire(request) or await self.leases.acquire(request)

    def acquire_in_background(self, model: str, **more: Any) -> asyncio.Task[Lease]:
        """Acquire in the background."""
        return asyncio.create_task(self.lease(model, **more))


def acquire_message(
    model: str,
    prompt_tokens: int = 10,
    max_tokens: int | None = 10,
    timeout: float = LIMIT,
    fingerprint: bytes = b"",
    key: str = "",
) -> AcquireLease:
    caller = CallerIdentity(key)
    return AcquireLease(
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


async def turn() -> None:
    """Let everything that is ready to run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


def is_alive(pid: int | None) -> bool:
    """Whether a process runs."""
    assert pid is not None
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def states(it: Rig) -> list[tuple[str, str]]:
    return [(engine.adapter.name, engine.state.value) for engine in it.pool.engines]


async def successor(it: Rig) -> Engine:
    """The engine that is starting, as soon as it has a process."""
    found: Any = await wait_until(
        lambda: [e for e in it.pool.engines if e.state is EngineState.STARTING and e.pid]
    )
    return found[0]  # type: ignore[no-any-return]
