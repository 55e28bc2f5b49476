"""gunicorn's configuration; `gunicorn.conf.py` and `python:vllm_obtain.gunicorn_conf` lead here.

gunicorn replaces a worker by closing its listener and forking the next one when it is gone: with
one worker nobody answers meanwhile, and a stream longer than its patience is cut. So its own
counting is switched off and workers are replaced here: the new one first, then the old one goes.
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

from vllm_obtain import cores, hardware, log
from vllm_obtain.access import tls, weak
from vllm_obtain.access.binding import require_keys
from vllm_obtain.announce import announce
from vllm_obtain.api.app import OWNER_VARIABLE
from vllm_obtain.api.hasten import calm_collector, hasten
from vllm_obtain.api.hooks import DRAIN_RETRY
from vllm_obtain.api.moving import LEAVE, RELAY
from vllm_obtain.api.services import EXTENSION, Services
from vllm_obtain.draining import Drain, end_of_grace, marker
from vllm_obtain.errors import Overloaded, ServiceError, SettingsError, StartError
from vllm_obtain.launch import require_free
from vllm_obtain.settings import FROZEN, load_settings
from vllm_obtain.supervisor import runtime
from vllm_obtain.supervisor.service import raise_file_limit
from vllm_obtain.upgrading import incoming
from vllm_obtain.upgrading.channel import predecessor
from vllm_obtain.upgrading.outgoing import Outgoing
from vllm_obtain.upgrading.phase import Phase

# A marker older than this was left by a worker that died before its successor came.
MARKER_SECONDS = 60.0
# How long a worker whose master was killed may take to finish, in seconds.
ORPHAN_SECONDS = 2.0
# How long a worker that shall leave may still take new connections, and more.
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
# For the head of a request, the first one or the next.
keepalive = _settings.header_timeout
# A worker that is being replaced finishes every request it has.
graceful_timeout = int(_settings.request_timeout) + 5
# It is one path per user, on which several services would clash; ours is the supervisor's.
control_socket_disable = True
errorlog = "-"
proc_name = "vllm-obtain"


def on_starting(server: Any) -> None:
    """Check once, in the master, what would fail in every worker; name the instance."""
    address = server.cfg.address[0]
    if isinstance(address, tuple):
        os.environ["PORT"] = str(address[1])
        os.environ["HOST"] = str(address[0])
    os.environ[OWNER_VARIABLE] = str(os.getpid())
    # What a master before this one read may have changed.
    os.environ.pop(FROZEN, None)
    os.environ.pop(runtime.VERSION, None)
    before = predecessor()
    try:
        settings = load_settings()
        cores.forbid(settings)
        tls.context(settings)
        require_keys(settings, [str(each[0]) for each in server.cfg.address if _is_tcp(each)])
        # A worker that comes later shall neither fail for a line that was written meanwhile, nor
        # take the supervisor's settings for other ones.
        os.environ[FROZEN] = settings.models.text
        os.environ[runtime.VERSION] = runtime.version(settings)
        if isinstance(address, tuple) and "LISTEN_FDS" not in os.environ:
            require_free(*address)
        log.configure(settings, "gateway")
        weak.warn(settings, Path(".env"))
        log.close()
        hardware.device(settings.device_type)
        if before is None:
            runtime.begin_service(settings.port)
        else:
            incoming.settle(before, settings)
    except (SettingsError, StartError) as error:
        incoming.give_up(before, str(error))


def when_ready(server: Any) -> None:
    """Look at what is listened on in the end: systemd may have handed over other sockets."""
    names = [listener.sock.getsockname() for listener in server.LISTENERS]
    before = predecessor()
    try:
        settings = load_settings()
        require_keys(settings, [str(name[0]) for name in names if _is_tcp(name)])
    except (SettingsError, StartError) as error:
        incoming.give_up(before, str(error))
    if before is not None:
        # Nobody is served here yet: the version before does so until all is loaded.
        incoming.prepare(before, settings)
    drain = Drain(server, settings)
    drain.install()
    Outgoing(server, settings, drain).install()


def ssl_context(config: Any, default: Callable[[], Any]) -> Any:  # noqa: ARG001 - gunicorn's way
    """Make what encrypts, as `access/tls.py` has it."""
    made: Any = tls.tightened(default())
    # gevent would shake hands before anybody counts the connection, and wait for ever.
    made.wrap_socket = functools.partial(made.wrap_socket, do_handshake_on_connect=False)
    return made


def post_worker_init(worker: Any) -> None:
    """Take over recycling, count connections, and let the predecessor go if there is one."""
    raise_file_limit()
    calm_collector()
    made: Services = worker.wsgi.extensions[EXTENSION]
    limit = worker.max_requests
    worker.recycle_at, worker.recycle_every = limit, limit
    worker.max_requests = sys.maxsize
    _count_connections(worker, made)
    threading.Thread(target=_leave_in_time, args=(worker, made), daemon=True).start()
    before = predecessor()
    if before is not None:
        incoming.serve(before, made.settings, worker.ppid)
    marker = _marker(worker, made)
    if marker.exists():
        marker.unlink(missing_ok=True)
        os.kill(worker.ppid, signal.SIGTTOU)
    elif worker.age == 1:
        threading.Thread(target=announce, args=(made,), daemon=True).start()


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:  # noqa: ARG001 - gunicorn counts arguments
    """Ask for a successor when this worker has served its share."""
    if worker.nr < worker.recycle_at:
        return
    worker.recycle_at = worker.nr + worker.recycle_every
    marker = _marker(worker, worker.wsgi.extensions[EXTENSION])
    with contextlib.suppress(OSError):
        if time.time() - marker.stat().st_mtime > MARKER_SECONDS:
            marker.unlink()
    with contextlib.suppress(FileExistsError):
        marker.touch(exist_ok=False)
        os.kill(worker.ppid, signal.SIGTTIN)


def on_exit(server: Any) -> None:
    """Stay as a shell of the version that has taken over, if one has."""
    if (outgoing := getattr(server, "outgoing", None)) is not None:
        outgoing.become_shell()


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn passes by position
    """Send the last counts, and end without Python's own farewell.

    Waiting for threads that are greenlets ends in a traceback on Ctrl-C (gevent, Python 3.13).
    """
    # A worker whose start failed has no application.
    made = getattr(getattr(worker, "wsgi", None), "extensions", {}).get(EXTENSION)
    if made is not None:
        made.tracing.close()
        made.reporter.flush()
    if worker.booted:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _is_tcp(address: Any) -> bool:
    return isinstance(address, tuple)


def _count_connections(worker: Any, made: Services) -> None:
    handle = worker.handle

    def counted(listener: Any, client: Any, address: Any) -> None:
        hasten(client, made.settings.send_timeout)
        made.connections.opened(client)
        try:
            if _is_encrypted(client, made.settings.header_timeout):
                handle(listener, client, address)
        finally:
            made.connections.closed(client)

    worker.handle = counted


def _is_encrypted(client: Any, seconds: float) -> bool:
    """Shake hands with a client that speaks TLS; False if it does not do so in time."""
    if not isinstance(client, ssl.SSLSocket):
        return True
    from gevent import Timeout

    with contextlib.suppress(OSError), Timeout(seconds, False):
        client.do_handshake()
        return True
    return False


def _leave_in_time(worker: Any, made: Services) -> None:
    """Send requests away when the service ends, and see to it that the worker itself ends.

    Idle connections end when it leaves, and it does when its master was killed.
    """
    draining, end = marker(made.settings.port, worker.ppid), None
    phase = Phase(made.settings.port, worker.ppid)
    while worker.alive and os.getppid() == worker.ppid:
        end = end_of_grace(draining) or end
        made.draining = end is not None
        made.phase = phase.read()
        time.sleep(0.2)
    made.phase = phase.read() or made.phase
    if made.phase in (RELAY, LEAVE):
        # gunicorn's worker looks once a second whether it shall take no more connections.
        time.sleep(CLOSING_SECONDS)
        made.closed = True
    orphaned_since: float | None = None
    while True:
        # A client may be sending a request at this very moment: where another version serves,
        # there is time for it. Its connection ends with the answer.
        if made.phase not in (RELAY, LEAVE):
            made.connections.dismiss_idle()
        if end is not None and time.monotonic() >= end:
            made.working.end(_broken_off())
        if os.getppid() != worker.ppid:
            orphaned_since = orphaned_since or time.monotonic()
            if time.monotonic() - orphaned_since > ORPHAN_SECONDS:
                os._exit(0)
        time.sleep(0.2)


def _broken_off() -> ServiceError:
    return Overloaded(
        "The service is stopping, and GRACE_PERIOD is over. Ask again when it is back.",
        status=503,
        code="draining",
        retry_after=DRAIN_RETRY,
    )


def _marker(worker: Any, made: Services) -> Path:
    return runtime.folder(made.settings.port) / f"{runtime.RECYCLE}-{worker.ppid}"
