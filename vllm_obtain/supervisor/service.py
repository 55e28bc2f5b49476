"""The supervisor's life: from a bound socket to the end of its last owner."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import resource
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from vllm_obtain import cores, log
from vllm_obtain.catalogue import Catalogue, Model
from vllm_obtain.catalogue.convert.leftovers import sweep
from vllm_obtain.engines.choice import default_model
from vllm_obtain.errors import ServiceError
from vllm_obtain.fetching.placing import empty_bins, heal
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor import leftovers, runtime
from vllm_obtain.supervisor.control import Connection
from vllm_obtain.supervisor.desk import Desk
from vllm_obtain.supervisor.meter import Meter
from vllm_obtain.supervisor.pool import Pool

SAMPLE_INTERVAL = 60.0
REPLACED_INTERVAL = 0.5

_log = log.get_logger("vllm_obtain.supervisor")
_system = log.get_logger("vllm_obtain.system")


def run(settings: Settings, folder: Path, listener: socket.socket, owner: tuple[int, float]) -> int:
    """Supervise until the last owner is gone, or a successor has taken the control socket.

    Args:
        settings: the owner's settings.
        folder: the instance's runtime folder, prepared.
        listener: the control socket, bound and listening.
        owner: pid and start time of the first owner.

    Returns:
        The exit status of the process.
    """
    log.configure(settings, "supervisor")
    raise_file_limit()
    # Engines inherit it.
    cores.forbid(settings)
    asyncio.run(_serve(settings, folder, listener, owner))
    return 0


def fresh_catalogue(settings: Settings) -> Catalogue:
    """Make a catalogue that looks at the disk whenever it is asked to, however often.

    The gateway asks for what it has just seen there; a clock that jumps at each look makes every
    scan a late one.
    """
    clock = itertools.count().__next__
    return Catalogue(settings.models_dir, clock, settings.models)


def raise_file_limit() -> None:
    """Allow this process as many descriptors as the system lets it: a request takes three."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(
    settings: Settings, folder: Path, listener: socket.socket, owner: tuple[int, float]
) -> None:
    control = runtime.control_identity(folder)
    runtime.sweep(folder)
    models = fresh_catalogue(settings)
    desk = Desk(settings, models, folder, runtime.version(settings))
    desk.owners.add(*owner)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, desk.stop.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    server = await loop.create_unix_server(lambda: Connection(desk), sock=listener)
    sampling = asyncio.create_task(_sample(desk.meter, folder))
    try:
        _log.info("supervisor started", folder=str(folder))
        # A thread that nobody waits for: folders of converted models are large.
        threading.Thread(target=_sweep, args=(settings.models_dir, folder), daemon=True).start()
        desk.pool.watch()
        _preload(desk.pool, models, settings)
        await _until_the_end(desk, folder, control)
    finally:
        sampling.cancel()
        server.close()
        await asyncio.gather(desk.pulls.close(), desk.pool.close())
        desk.meter.close()
        runtime.remove(folder, control)
        leftovers.give_up(folder)
        _log.info("supervisor ended")


def _sweep(models_dir: Path, folder: Path) -> None:
    for dead in leftovers.clear(folder):
        _log.info("removed what a killed service left", folder=str(dead))
    try:
        heal(models_dir)
        removed = sweep(models_dir)
        empty_bins(models_dir)
    except OSError as error:
        _log.warning("leftovers of conversions cannot be removed", reason=str(error))
        return
    if removed:
        _log.info("removed leftovers of conversions", folders=[str(each) for each in removed])


def _preload(pool: Pool, models: Catalogue, settings: Settings) -> None:
    if not settings.default_model and not settings.models.preloaded:
        _begin(pool, lambda: default_model(models, settings), settings)
        return
    for name in filter(None, [settings.default_model, *settings.models.preloaded]):
        _begin(pool, functools.partial(models.find, name), settings)


def _begin(pool: Pool, find: Callable[[], Model | None], settings: Settings) -> None:
    try:
        model = find()
        if model is not None:
            # Again for one that is on its way: that is joined.
            pool.begin(model.name)
        else:
            _log.warning("no model to load", models_dir=str(settings.models_dir))
    except ServiceError as error:
        _log.error("a model to load at the start cannot be loaded", reason=error.message)


async def _until_the_end(desk: Desk, folder: Path, control: tuple[int, int] | None) -> None:
    ends = {
        asyncio.create_task(desk.stop.wait()),
        asyncio.create_task(desk.owners.until_gone()),
        asyncio.create_task(_until_replaced(folder, control)),
    }
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()


async def _until_replaced(folder: Path, control: tuple[int, int] | None) -> None:
    """Wait until the control socket is another's, who took this supervisor for dead, or gone."""
    while runtime.control_identity(folder) == control:
        await asyncio.sleep(REPLACED_INTERVAL)
    _log.warning("the control socket is no longer ours", folder=str(folder))


async def _sample(meter: Meter, folder: Path) -> None:
    await meter.read()  # the first reading of CPU time is the base of the next
    while True:
        runtime.stay(folder)
        await asyncio.sleep(SAMPLE_INTERVAL)
        _system.info("sample", **(await meter.read()).system)
