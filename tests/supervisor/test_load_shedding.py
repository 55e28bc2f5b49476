"""Which request is rejected at a limit, and when its client may come back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import DONE, in_loop, rig, turn
from vllm_obtain.errors import Overloaded
from vllm_obtain.supervisor.leases import Lease

SETTINGS = pytest.mark.parametrize(
    "settings",
    [{"max_concurrent_requests": 5}, {"max_queued_requests": 4}],
    ids=["concurrent", "queued"],
)


async def release_all(running: Lease, *queued: asyncio.Task[Lease]) -> None:
    """Release the running request, and each queued one as it gets its lease."""
    running.release(DONE)
    for lease in asyncio.as_completed(queued):
        (await lease).release(DONE)


@SETTINGS
@in_loop
async def test_the_caller_with_most_queued_requests_is_rejected_first(
    models: Path, runtime: Path, settings: dict[str, int]
) -> None:
    write_model(models, "a", slots=1)
    async with rig(models, runtime, **settings) as it:
        running = await it.lease("a", key="flood")
        flood = [it.acquire_in_background("a", key="flood") for _ in range(4)]
        await turn()
        with pytest.raises(Overloaded):
            await it.lease("a", key="flood")
        first = it.acquire_in_background("a", key="polite")
        await turn()
        assert [each.done() for each in flood] == [False, False, False, True]
        error = flood[3].exception()
        assert isinstance(error, Overloaded) and error.retry_after
        second = it.acquire_in_background("a", key="polite")
        await turn()
        # Each caller has two queued requests now, so neither may take the other's place.
        assert [each.done() for each in flood] == [False, False, True, True]
        for key in ("flood", "polite"):
            with pytest.raises(Overloaded):
                await it.lease("a", key=key)
        await release_all(running, *flood[:2], first, second)
        assert it.leases.in_flight == 0


@in_loop
async def test_a_model_at_its_own_limit_displaces_its_own_requests(
    models: Path, runtime: Path
) -> None:
    for name in ("a", "b"):
        write_model(models, name, slots=1)
    file = models.parent / "models.toml"
    file.write_text("[b]\nmax_concurrent_requests = 3\n")
    env = {"model_settings": file, "max_concurrent_models": 2}
    async with rig(models, runtime, **env) as it:
        on_a = await it.lease("a", key="flood")
        queued_on_a = [it.acquire_in_background("a", key="flood") for _ in range(5)]
        on_b = await it.lease("b", key="flood")
        queued_on_b = [it.acquire_in_background("b", key="flood") for _ in range(2)]
        await turn()
        polite = it.acquire_in_background("b", key="polite")
        await turn()
        assert [each.done() for each in queued_on_b] == [False, True]
        assert not any(each.done() for each in queued_on_a)
        assert isinstance(queued_on_b[1].exception(), Overloaded)
        await release_all(on_b, queued_on_b[0], polite)
        await release_all(on_a, *queued_on_a)
        assert it.leases.in_flight == 0


@in_loop
async def test_running_requests_are_not_displaced(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=3)
    async with rig(models, runtime, max_concurrent_requests=3) as it:
        running = [await it.lease("a", key="flood") for _ in range(3)]
        with pytest.raises(Overloaded):
            await it.lease("a", key="polite")
        for lease in running:
            lease.release(DONE)
