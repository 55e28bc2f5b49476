"""Runs the supervisor from a bound control socket until its last owner has ended."""

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vllm_obtain import core_dumps
from vllm_obtain.config.settings import Settings
from vllm_obtain.control import runtime_dir, stale_instances
from vllm_obtain.control.heartbeat import (
    INTERVAL,
    LoopWatchdog,
    WorkerHeartbeats,
    report_stacks,
)
from vllm_obtain.download.install import delete_trash, recover
from vllm_obtain.engines.selection import default_model
from vllm_obtain.errors import ServiceError
from vllm_obtain.logs import setup
from vllm_obtain.models import Model, ModelCatalog
from vllm_obtain.models.convert.cleanup import sweep
from vllm_obtain.supervisor.control_server import ControlSession
from vllm_obtain.supervisor.memory.sampler import ResourceSampler
from vllm_obtain.supervisor.models.pool import Pool
from vllm_obtain.supervisor.state import SupervisorState

SAMPLE_INTERVAL = 60.0
REPLACED_INTERVAL = 0.5

_log = setup.get_logger("vllm_obtain.supervisor")
_system = setup.get_logger("vllm_obtain.system")


def run(settings: Settings, folder: Path, listener: socket.socket, owner: tuple[int, float]) -> int:
    """Run until the last owner has ended, or another supervisor has taken the control socket.

    Args:
        settings: the service's settings.
        folder: the instance's runtime folder, which exists.
        listener: the control socket, bound and listening.
        owner: pid and start time of the first owner.

    Returns:
        The exit status of the process.
    """
    # The gateway has checked LOG_DIR when the service started.
    setup.configure(settings, "supervisor", required=False)
    raise_file_limit()
    # Engines inherit the limit.
    core_dumps.forbid(settings)
    asyncio.run(_serve(settings, folder, listener, owner))
    return 0


def fresh_catalogue(settings: Settings) -> ModelCatalog:
    """Create a catalog that scans the disk at each call.

    The gateway asks for models that it has just seen on disk. A clock that advances at each call
    makes every cached scan outdated.
    """
    clock = itertools.count().__next__
    return ModelCatalog(settings.models_dir, clock, settings.models)


def raise_file_limit() -> None:
    """Raise the limit of open files, since a request takes three file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(
    settings: Settings, folder: Path, listener: socket.socket, owner: tuple[int, float]
) -> None:
    control = runtime_dir.control_identity(folder)
    runtime_dir.sweep(folder)
    models = fresh_catalogue(settings)
    state = SupervisorState(settings, models, folder, runtime_dir.version(settings))
    state.owners.add(*owner)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, state.stop.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    server = await loop.create_unix_server(lambda: ControlSession(state), sock=listener)
    sampling = asyncio.create_task(_sample(state.sampler, folder))
    watchdog = LoopWatchdog(folder, settings.heartbeat_seconds)
    beating = asyncio.create_task(_beat(watchdog, state.worker_heartbeats))
    starting = asyncio.create_task(_start_models(state, models, settings))
    try:
        _log.info("supervisor started", folder=str(folder))
        report_stacks(folder)
        # A daemon thread, since deleting large folders takes long.
        threading.Thread(target=_sweep, args=(settings.models_dir, folder), daemon=True).start()
        state.pool.watch()
        await _wait_for_end(state, folder, control)
        if not state.owners.alive():
            # The service has ended, and a shell has printed its prompt.
            setup.close_terminal()
    finally:
        starting.cancel()
        sampling.cancel()
        server.close()
        await asyncio.gather(state.downloads.close(), state.pool.close())
        state.sampler.close()
        beating.cancel()
        watchdog.close()
        runtime_dir.remove(folder, control)
        stale_instances.give_up(folder)
        _log.info("supervisor stopped")


def _sweep(models_dir: Path, folder: Path) -> None:
    for stale_folder in stale_instances.clear(folder):
        _log.info("stale instance removed", folder=str(stale_folder))
    try:
        recover(models_dir)
        removed = sweep(models_dir)
        delete_trash(models_dir)
    except OSError as error:
        _log.warning("conversion leftovers not removed", reason=str(error))
        return
    if removed:
        _log.info("conversion leftovers removed", folders=[str(path) for path in removed])


async def _start_models(state: SupervisorState, models: ModelCatalog, settings: Settings) -> None:
    """Scan the disk in a thread, while the control socket is served, then preload models."""
    scan_thread = ThreadPoolExecutor(1, "scan")
    try:
        await asyncio.get_running_loop().run_in_executor(scan_thread, models.models)
    finally:
        scan_thread.shutdown(wait=False)
        state.has_scanned.set()
    _preload(state.pool, models, settings)


def _preload(pool: Pool, models: ModelCatalog, settings: Settings) -> None:
    if not settings.default_model and not settings.models.preloaded:
        _preload_model(pool, lambda: default_model(models, settings), settings)
        return
    for name in filter(None, [settings.default_model, *settings.models.preloaded]):
        _preload_model(pool, functools.partial(models.find, name), settings)


def _preload_model(pool: Pool, find: Callable[[], Model | None], settings: Settings) -> None:
    try:
        model = find()
        if model is not None:
            # Joins a load of the same model that has already begun.
            pool.begin(model.name)
        else:
            _log.warning("no model found", models_dir=str(settings.models_dir))
    except ServiceError as error:
        _log.error("model not preloaded", reason=error.message)


async def _wait_for_end(
    state: SupervisorState, folder: Path, control: tuple[int, int] | None
) -> None:
    reasons = {
        asyncio.create_task(state.stop.wait()),
        asyncio.create_task(state.owners.wait_until_empty()),
        asyncio.create_task(_wait_until_replaced(folder, control)),
    }
    await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
    for task in reasons:
        task.cancel()


async def _wait_until_replaced(folder: Path, control: tuple[int, int] | None) -> None:
    """Wait until the control socket is gone, or is that of another supervisor."""
    while runtime_dir.control_identity(folder) == control:
        await asyncio.sleep(REPLACED_INTERVAL)
    _log.warning("control socket lost", folder=str(folder))


async def _beat(watchdog: LoopWatchdog, workers: WorkerHeartbeats) -> None:
    """Set back the watchdog of the event loop, also while everything is closed."""
    while True:
        watchdog.beat()
        workers.check()
        await asyncio.sleep(INTERVAL)


async def _sample(sampler: ResourceSampler, folder: Path) -> None:
    await sampler.read()  # the first sample is the base of the CPU time of the next one
    while True:
        runtime_dir.stay(folder)
        await asyncio.sleep(SAMPLE_INTERVAL)
        _system.info("sample", **(await sampler.read()).system)
