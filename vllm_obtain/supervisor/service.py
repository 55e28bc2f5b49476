"""The supervisor's life: from a bound socket to the end of its last owner."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from pathlib import Path

from vllm_obtain import log
from vllm_obtain.catalogue import Catalogue
from vllm_obtain.engines.registry import default_model
from vllm_obtain.errors import ServiceError
from vllm_obtain.hardware import sample
from vllm_obtain.metrics import Numbers
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor import runtime
from vllm_obtain.supervisor.answers import Answers
from vllm_obtain.supervisor.control import Connection, Desk
from vllm_obtain.supervisor.owners import Owners
from vllm_obtain.supervisor.pool import Pool

SAMPLE_INTERVAL = 60.0

_log = log.get_logger("vllm_obtain.supervisor")
_system = log.get_logger("vllm_obtain.system")


def run(settings: Settings, folder: Path, listener: socket.socket, owner: tuple[int, float]) -> int:
    """Supervise until the last owner is gone.

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
    owners = Owners()
    owners.add(*owner)
    asyncio.run(_serve(settings, folder, listener, owners))
    return 0


def raise_file_limit() -> None:
    """Allow this process as many descriptors as the system lets it: a request takes three."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(settings: Settings, folder: Path, listener: socket.socket, owners: Owners) -> None:
    control = (folder / runtime.CONTROL).stat().st_ino
    runtime.sweep(folder)
    numbers = Numbers()
    catalogue = Catalogue(settings.models_dir)
    pool = Pool(settings, catalogue, folder, numbers)
    desk = Desk(pool, Answers(settings.cache_size), owners, numbers, runtime.version())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, desk.stop.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    server = await loop.create_unix_server(lambda: Connection(desk), sock=listener)
    sampling = asyncio.create_task(_sample())
    try:
        _log.info("supervisor started", folder=str(folder))
        _preload(pool, catalogue, settings)
        await _until_the_end(desk, owners)
    finally:
        sampling.cancel()
        server.close()
        await pool.close()
        runtime.remove(folder, control)
        _log.info("supervisor ended")


def _preload(pool: Pool, catalogue: Catalogue, settings: Settings) -> None:
    try:
        model = default_model(catalogue, settings)
        if model is not None:
            pool.begin(model.name)
        else:
            _log.warning("no model to load", models_dir=str(settings.models_dir))
    except ServiceError as error:
        _log.error("the default model cannot be loaded", reason=error.message)


async def _until_the_end(desk: Desk, owners: Owners) -> None:
    ends = {
        asyncio.create_task(desk.stop.wait()),
        asyncio.create_task(owners.until_gone()),
    }
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()


async def _sample() -> None:
    sample()  # the first reading of CPU time is the base of the next
    while True:
        await asyncio.sleep(SAMPLE_INTERVAL)
        _system.info("sample", **sample())
