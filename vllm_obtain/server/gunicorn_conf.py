"""gunicorn configuration, loaded by `gunicorn.conf.py` and `vllm-obtain serve`.

With `--max-requests`, gunicorn ends a worker before it forks the next one. With one worker the
service would not respond meanwhile, and streams longer than the graceful timeout would be cut. So
gunicorn's counter is disabled, and workers are replaced here: the new one starts first.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_obtain import core_dumps
from vllm_obtain.access import secret_checks, tls
from vllm_obtain.access.loopback import require_keys
from vllm_obtain.config.settings import FROZEN, freeze, load_settings
from vllm_obtain.config.sources import export_otel
from vllm_obtain.control import runtime_dir
from vllm_obtain.control.heartbeat import (
    INTERVAL,
    LoopWatchdog,
    SupervisorHeartbeat,
    report_stacks,
)
from vllm_obtain.errors import Overloaded, ServiceError, SettingsError, StartError
from vllm_obtain.gateway.app import OWNER_VARIABLE
from vllm_obtain.gateway.core.services import EXTENSION, Services
from vllm_obtain.gateway.core.socket_tuning import tune_garbage_collector, tune_worker
from vllm_obtain.gateway.middleware.access_log import DRAIN_RETRY
from vllm_obtain.gateway.middleware.upgrade_hold import LEAVE, RELAY
from vllm_obtain.hardware import machine as hardware
from vllm_obtain.logs import setup
from vllm_obtain.server.draining import Drain, drain_deadline, drain_marker
from vllm_obtain.server.launch import require_free
from vllm_obtain.server.startup_banner import announce
from vllm_obtain.server.upgrade import new_master
from vllm_obtain.server.upgrade.channel import predecessor
from vllm_obtain.server.upgrade.old_master import OldMaster
from vllm_obtain.server.upgrade.phase import UpgradePhase
from vllm_obtain.server.worker_boot import retry_boot, worker_started
from vllm_obtain.supervisor.main import raise_file_limit

# Age in seconds after which a marker is stale: its worker ended before the successor started.
MARKER_SECONDS = 60.0
# Seconds that a worker may continue after its master was killed.
ORPHAN_SECONDS = 2.0
# Seconds after which a worker that is told to leave accepts no new connection, with a margin.
CLOSING_SECONDS = 1.5

try:
    _settings = load_settings()
except SettingsError as error:
    sys.exit(str(error))

bind = f"{_settings.host}:{_settings.port}"
workers = hardware.workers(_settings.workers)
worker_class = _settings.worker_class
worker_connections = _settings.worker_connections
certfile = _settings.tls_certfile or None
keyfile = _settings.tls_keyfile or None
timeout = 300
# Time limit for the head of each request on a connection.
keepalive = _settings.header_timeout
# A worker that is replaced finishes its requests first.
graceful_timeout = int(_settings.request_timeout) + 5
# gunicorn's control socket has one path per user, so several services would conflict.
control_socket_disable = True
errorlog = "-"
proc_name = "vllm-obtain"


def on_starting(server: Any) -> None:
    """Validate the configuration once in the master, and set the variables for the workers."""
    address = server.cfg.address[0]
    if isinstance(address, tuple):
        os.environ["PORT"] = str(address[1])
        os.environ["HOST"] = str(address[0])
    os.environ[OWNER_VARIABLE] = str(os.getpid())
    # Inherited from the previous master during an upgrade; the file may have changed since.
    os.environ.pop(FROZEN, None)
    os.environ.pop(runtime_dir.VERSION, None)
    before = predecessor()
    try:
        settings = load_settings()
        core_dumps.forbid(settings)
        tls.context(settings)
        require_keys(settings, [str(each[0]) for each in server.cfg.address if _is_tcp(each)])
        # Workers that start later use the same settings, even if the files have changed.
        freeze(settings)
        export_otel(Path(".env"))
        os.environ[runtime_dir.VERSION] = runtime_dir.version(settings)
        if isinstance(address, tuple) and "LISTEN_FDS" not in os.environ:
            require_free(*address)
        setup.configure(settings, "gateway")
        secret_checks.warn(settings, Path(".env"))
        setup.close()
        hardware.device(settings.device_type)
        if before is None:
            runtime_dir.begin_service(settings.port)
        else:
            new_master.choose_runtime_dir(before, settings)
    except (SettingsError, StartError) as error:
        new_master.fail(before, str(error))


def when_ready(server: Any) -> None:
    """Check the actual listeners, which systemd may have passed. Install signal handlers."""
    names = [listener.sock.getsockname() for listener in server.LISTENERS]
    before = predecessor()
    try:
        settings = load_settings()
        require_keys(settings, [str(name[0]) for name in names if _is_tcp(name)])
    except (SettingsError, StartError) as error:
        new_master.fail(before, str(error))
    if before is not None:
        # The previous version serves requests until all models are loaded.
        new_master.load_models(before, settings)
    # gunicorn would read the configuration again. A terminal that closes sends SIGHUP too.
    server.handle_hup = functools.partial(server.log.warning, "SIGHUP ignored")
    drain = Drain(server, settings)
    drain.install()
    OldMaster(server, settings, drain).install()


def ssl_context(config: Any, default: Callable[[], Any]) -> Any:  # noqa: ARG001 - gunicorn passes it
    """Create the TLS context as in `access/tls.py`."""
    context: Any = tls.require_modern(default())
    # gevent would do the handshake before the connection is counted, without a timeout.
    context.wrap_socket = functools.partial(context.wrap_socket, do_handshake_on_connect=False)
    return context


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn passes by position
    """Retry the start of a worker if other workers already serve."""
    retry_boot(worker)


def post_worker_init(worker: Any) -> None:
    """Set up recycling and connection counting, and end the predecessor if there is one."""
    worker_started()
    # Ctrl-C reaches every process of the terminal's group. The master decides about the stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_file_limit()
    tune_garbage_collector()
    services: Services = worker.wsgi.extensions[EXTENSION]
    limit = worker.max_requests
    worker.recycle_at, worker.recycle_every = limit, limit
    worker.max_requests = sys.maxsize
    _count_connections(worker, services)
    threading.Thread(target=_watch_shutdown, args=(worker, services), daemon=True).start()
    threading.Thread(target=_beat, args=(services,), daemon=True).start()
    heartbeat = SupervisorHeartbeat(services.supervisor, services.settings.heartbeat_seconds)
    threading.Thread(target=heartbeat.run, daemon=True).start()
    before = predecessor()
    if before is not None:
        new_master.serve(before, services.settings, worker.ppid)
    marker = _recycle_marker(worker, services)
    if marker.exists():
        marker.unlink(missing_ok=True)
        os.kill(worker.ppid, signal.SIGTTOU)
    elif worker.age == 1:
        threading.Thread(target=announce, args=(services,), daemon=True).start()


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:  # noqa: ARG001 - gunicorn counts arguments
    """Request a successor when this worker has served its share of requests."""
    if worker.nr < worker.recycle_at:
        return
    worker.recycle_at = worker.nr + worker.recycle_every
    marker = _recycle_marker(worker, worker.wsgi.extensions[EXTENSION])
    with contextlib.suppress(OSError):
        if time.time() - marker.stat().st_mtime > MARKER_SECONDS:
            marker.unlink()
    with contextlib.suppress(FileExistsError):
        marker.touch(exist_ok=False)
        os.kill(worker.ppid, signal.SIGTTIN)


def on_exit(server: Any) -> None:
    """Remove the marker of a drain. After an upgrade, keep this pid for the service manager."""
    if (drain := getattr(server, "drain", None)) is not None:
        drain.remove_marker()
    if (old_master := getattr(server, "old_master", None)) is not None:
        old_master.become_pid_holder()


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn passes by position
    """Send the last metrics and end without Python's shutdown.

    With gevent and Python 3.13, joining threads at shutdown prints a traceback on Ctrl-C.
    """
    # A worker that failed to start has no application.
    services = getattr(getattr(worker, "wsgi", None), "extensions", {}).get(EXTENSION)
    if services is not None:
        services.tracing.close()
        services.reporter.flush()
    if worker.booted:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _is_tcp(address: Any) -> bool:
    return isinstance(address, tuple)


def _count_connections(worker: Any, services: Services) -> None:
    handle = worker.handle

    def handle_counted(listener: Any, client: Any, address: Any) -> None:
        tune_worker(client, services.settings.send_timeout)
        services.connections.opened(client)
        try:
            if _handshake(client, services.settings.header_timeout):
                handle(listener, client, address)
        finally:
            services.connections.closed(client)

    worker.handle = handle_counted


def _handshake(client: Any, seconds: float) -> bool:
    """Do the TLS handshake, if the connection uses TLS.

    Returns:
        False if the handshake failed or took too long.
    """
    if not isinstance(client, ssl.SSLSocket):
        return True
    from gevent import Timeout

    with contextlib.suppress(OSError), Timeout(seconds, False):
        client.do_handshake()
        return True
    return False


def _watch_shutdown(worker: Any, services: Services) -> None:
    """Apply drain and upgrade markers to this worker, and end it in time.

    Idle connections are closed when the worker leaves. A worker whose master was killed ends too.
    """
    marker, deadline = drain_marker(services.settings.port, worker.ppid), None
    phase = UpgradePhase(services.settings.port, worker.ppid)
    while worker.alive and os.getppid() == worker.ppid:
        deadline = drain_deadline(marker) or deadline
        services.draining = deadline is not None
        services.phase = phase.read()
        time.sleep(0.2)
    deadline = drain_deadline(marker) or deadline
    services.phase = phase.read() or services.phase
    if services.phase in (RELAY, LEAVE):
        # A gunicorn worker checks once a second whether to accept connections.
        time.sleep(CLOSING_SECONDS)
        services.closed = True
    orphaned_since: float | None = None
    while True:
        # During an upgrade, a client may just be sending a request on an idle connection. Such a
        # connection is closed after its next response instead.
        if services.phase not in (RELAY, LEAVE):
            services.connections.dismiss_idle()
        if deadline is not None and time.monotonic() >= deadline:
            services.in_flight.end(_shutdown_error())
        if os.getppid() != worker.ppid:
            orphaned_since = orphaned_since or time.monotonic()
            if time.monotonic() - orphaned_since > ORPHAN_SECONDS:
                os._exit(0)
        time.sleep(0.2)


def _beat(services: Services) -> None:
    """Set back the watchdog of this worker's event loop, until the process ends."""
    folder = runtime_dir.folder(services.settings.port)
    report_stacks(folder)
    watchdog = LoopWatchdog(folder, services.settings.heartbeat_seconds)
    while True:
        watchdog.beat()
        time.sleep(INTERVAL)


def _shutdown_error() -> ServiceError:
    return Overloaded(
        "The service is shutting down. Retry when it is back.",
        status=503,
        code="draining",
        retry_after=DRAIN_RETRY,
    )


def _recycle_marker(worker: Any, services: Services) -> Path:
    return runtime_dir.folder(services.settings.port) / f"{runtime_dir.RECYCLE}-{worker.ppid}"
