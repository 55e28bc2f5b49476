"""Where one service keeps its sockets and pid files, and how its supervisor is found.

One instance is one port. The folder's path is short on purpose: macOS limits a Unix socket's
path to 104 bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import stat
from collections.abc import Iterable
from pathlib import Path

import psutil

from vllm_obtain.errors import StartError
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.owners import SAME_START, started

BASE = Path("/tmp")  # noqa: S108 - a folder of mode 700 is made below it, and its owner checked
CONTROL = "control.sock"
# Settings that only the gateway reads: a change in them leaves engines alone.
_GATEWAY_ONLY = frozenset(
    "host workers worker_class worker_connections request_timeout max_body_mb "
    "header_timeout body_timeout send_timeout "
    "enable_caching api_keys keys_file public_docs public_metrics allowed_hosts cors_origins "
    "trusted_proxies url_prefix grace_period requests_per_minute tokens_per_minute "
    "tls_certfile tls_keyfile config_key_file".split()
)
# Beside the folder; removed by who holds it, so who gets it looks whether it is still there.
START_LOCK = ".lock"
RECYCLE = "recycle"
# Who serves here, and what tells the workers of a master to send new requests away.
SERVICE = "service.pid"
DRAIN = "drain-"
# What a master that is being replaced tells its workers, and what it tells `vllm-obtain upgrade`.
PHASE = "phase-"
NEWS = "upgrade"
# A service that takes over from another one on its port lives beside it: each has a place.
PLACE = "VLLM_OBTAIN_PLACE"
PLACES = ("", "b")
# What a master runs, for workers and supervisors that are started when its files are others.
VERSION = "VLLM_OBTAIN_VERSION"
# What the supervisor runs besides itself: a change in the gateway alone leaves engines alone.
_SOURCES = (
    "*.py",
    "access/*.py",
    "catalogue/**/*.py",
    "chat/*.py",
    "engines/**/*.py",
    "fetching/*.py",
    "messages/*.py",
    "protocol/*.py",
    "supervisor/*.py",
)


def folder(port: int, place: str | None = None) -> Path:
    """Name the folder of the instance on a port; it need not exist.

    Args:
        port: PORT.
        place: which of PLACES; this process's own when left out.
    """
    own = os.environ.get(PLACE, "") if place is None else place
    return BASE / f"vllm-obtain-{os.getuid()}" / f"{port}{own}"


def home(port: int) -> Path:
    """Find the folder of the service that runs on a port; the first one when none does."""
    places = [folder(port, place) for place in PLACES]
    return next((each for each in places if noted(each) is not None), places[0])


def prepare(port: int) -> Path:
    """Make the folder of an instance, readable by this user alone.

    Raises:
        StartError: somebody else owns the place, or it cannot be made.
    """
    path = folder(port)
    for level in (path.parent, path):
        try:
            level.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartError(f"The folder {level} for sockets cannot be made: {error}.") from error
        found = level.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise StartError(f"{level} belongs to somebody else. Remove it and start again.")
        level.chmod(0o700)
    # Whoever clears up after dead services sees that somebody begins here.
    with contextlib.suppress(OSError):
        os.utime(path)
    return path


def begin_service(port: int, beside: bool = False, pid: int | None = None) -> None:
    """Make a process the service on a port; `vllm-obtain stop` finds it.

    What a killed service had marked for its workers says nothing to ours.

    Args:
        port: PORT.
        beside: whether another service is about to leave this place, and its marks count.
        pid: of the service, this process when left out.

    Raises:
        StartError: as `prepare` does.
    """
    place = prepare(port)
    if not beside:
        _unlink(_marks(place))
    path = place / SERVICE
    new = path.with_suffix(".new")
    pid = pid or os.getpid()
    try:
        new.write_text(f"{pid} {started(pid)}")
    except FileNotFoundError:  # a supervisor that ended has removed the folder just now
        prepare(port)
        new.write_text(f"{pid} {started(pid)}")
    new.replace(path)


def end_service(port: int) -> None:
    """Be the service no more; who has taken over stays."""
    if noted(folder(port)) == os.getpid():
        _unlink([folder(port) / SERVICE])


def service(port: int) -> int | None:
    """Find the process that is the service on a port, None when there is none."""
    return noted(home(port))


def noted(path: Path) -> int | None:
    """Find the process that is the service of a folder, None when there is none."""
    try:
        pid, start = (path / SERVICE).read_text().split()
        now = started(int(pid))
        return int(pid) if now is not None and abs(now - float(start)) < SAME_START else None
    except (OSError, ValueError):
        return None


def read(path: Path) -> str:
    """Read a mark that others may make and take away; it is empty while there is none.

    To look first costs workers, which do that all the time, a tenth of what it costs to fail.
    """
    if not os.access(path, os.F_OK):
        return ""
    try:
        return path.read_text()
    except OSError:
        return ""


def prefix() -> str:
    """Begin the names of this supervisor's own files, so that it never removes a successor's."""
    return f"e{os.getpid()}-"


def sweep(path: Path) -> None:
    """End what a killed supervisor left behind, and remove its sockets and pid files.

    Only a process whose command line names its own files is ended: a pid may have been reused.
    """
    for pidfile in path.glob("e*.pid"):
        own = str(pidfile.with_suffix(""))
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int(pidfile.read_text()))
            if any(f"{own}." in argument for argument in process.cmdline()):
                os.killpg(process.pid, signal.SIGKILL)
    _unlink(path.glob("e*"))


def empty(path: Path) -> None:
    """Remove what a dead service left in its folder, and nothing that is not ours."""
    names = (CONTROL, SERVICE, SERVICE.replace(".pid", ".new"))
    _unlink([*(path / name for name in names), *_marks(path)])


def stay(path: Path) -> None:
    """Show that the files in a folder are in use: systemd removes those in /tmp after ten days.

    It leaves sockets alone that somebody listens on, and the control socket's time tells it from
    its successor's.
    """
    for file in (path / SERVICE, path.with_suffix(START_LOCK), *path.glob("e*.pid")):
        with contextlib.suppress(OSError):
            os.utime(file)


def control_identity(path: Path) -> tuple[int, int] | None:
    """Tell the control socket in a folder from any other one; None when there is none."""
    try:
        found = (path / CONTROL).stat()
    except OSError:
        return None
    # An inode number is free for the next file as soon as a socket is removed.
    return found.st_ino, found.st_mtime_ns


def remove(path: Path, control: tuple[int, int] | None) -> None:
    """Remove what a supervisor made, and the folder if nobody else uses it.

    Args:
        path: the instance's folder.
        control: `control_identity` of this supervisor's own socket; a successor's stays.
    """
    _unlink(path.glob(f"{prefix()}*"))
    if control is not None and control_identity(path) == control:
        _unlink([path / CONTROL, *_marks(path)])
        if noted(path) is None:
            _unlink([path / SERVICE])
    for level in (path, path.parent):
        with contextlib.suppress(OSError):
            level.rmdir()


def _marks(path: Path) -> list[Path]:
    return [file for name in (RECYCLE, DRAIN, PHASE, NEWS) for file in path.glob(f"{name}*")]


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def version(settings: Settings) -> str:
    """Fingerprint what a supervisor runs, to tell an old one after a reload or a restart.

    Args:
        settings: a service that is started again at once may have been given others, while the
            supervisor of the one before has not noticed its end yet.

    Returns:
        What the gunicorn master above this process has said it is: what it starts later belongs
        to it, though its files may be those of the next version by then.
    """
    if said := os.environ.get(VERSION):
        return said
    digest = hashlib.sha256(settings.model_dump_json(exclude=set(_GATEWAY_ONLY)).encode())
    digest.update(settings.models.text.encode())
    for source in sources():
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def sources() -> list[Path]:
    """List the files that a supervisor and its children run."""
    root = Path(__file__).parent.parent
    return sorted(file for pattern in _SOURCES for file in root.glob(pattern))
