"""The runtime folder of an instance: sockets, pid files and markers.

There is one instance per port. The path is short, since macOS limits the path of a Unix socket to
104 bytes.
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

from vllm_obtain.config.settings import Settings
from vllm_obtain.control.owners import SAME_START, start_time
from vllm_obtain.errors import StartError
from vllm_obtain.fs import atomic_write, is_own, read_own

BASE = Path("/tmp")  # noqa: S108 - a folder of mode 700 is made below it, and its owner checked
CONTROL = "control.sock"
# Settings that only the gateway reads. A change in them does not restart the supervisor.
_GATEWAY_ONLY = frozenset(
    "host workers worker_class worker_connections request_timeout max_body_mb "
    "header_timeout body_timeout send_timeout "
    "enable_caching api_keys keys_file public_docs public_metrics allowed_hosts cors_origins "
    "trusted_proxies url_prefix grace_period requests_per_minute tokens_per_minute "
    "tls_certfile tls_keyfile config_key_file".split()
)
# Next to the folder. Its holder may delete it, so check after locking that it still exists.
START_LOCK = ".lock"
RECYCLE = "recycle"
# The pid of the service, and the marker by which a master's workers reject new requests.
SERVICE = "service.pid"
DRAIN = "drain-"
# The last valid content of KEYS_FILE.
KEYS = "keys"
# The upgrade phase for the workers of an old master, and its status for `vllm-obtain upgrade`.
PHASE = "phase-"
NEWS = "upgrade"
# The stacks of a process whose event loop was blocked; followed by its pid.
STACKS = "stacks-"
# During an upgrade two services share a port. Each has a folder of its own.
PLACE = "VLLM_OBTAIN_PLACE"
PLACES = ("", "b")
# The version of a master, for workers and supervisors that start after its files have changed.
VERSION = "VLLM_OBTAIN_VERSION"
# Sources that the supervisor uses. A change in the gateway alone does not restart the supervisor.
_SOURCES = (
    "*.py",
    "access/*.py",
    "config/*.py",
    "control/**/*.py",
    "download/**/*.py",
    "engines/**/*.py",
    "hardware/*.py",
    "logs/*.py",
    "metrics/*.py",
    "models/**/*.py",
    "protocol/*.py",
    "supervisor/**/*.py",
)


def folder(port: int, place: str | None = None) -> Path:
    """Return the path of an instance's folder, which may not exist.

    Args:
        port: PORT.
        place: one of PLACES; None for the one of this process.
    """
    own = os.environ.get(PLACE, "") if place is None else place
    return BASE / f"vllm-obtain-{os.getuid()}" / f"{port}{own}"


def home(port: int) -> Path:
    """Return the folder of the service that runs on a port, or the default one if none runs."""
    places = [folder(port, place) for place in PLACES]
    return next((each for each in places if service_pid(each) is not None), places[0])


def prepare(port: int) -> Path:
    """Create the folder of an instance with mode 700.

    Raises:
        StartError: another user owns the folder, or it cannot be created.
    """
    path = folder(port)
    for level in (path.parent, path):
        try:
            level.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartError(f"Cannot create the folder {level} for sockets: {error}.") from error
        status = level.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise StartError(
                f"{level} belongs to another user or is not a folder. Remove it, or ask its owner "
                "to remove it, and start again."
            )
        level.chmod(0o700)
    # The modification time shows `stale_instances` that a service is starting here.
    with contextlib.suppress(OSError):
        os.utime(path)
    return path


def begin_service(port: int, beside: bool = False, pid: int | None = None) -> None:
    """Write the pid file of the service, by which `vllm-obtain stop` finds it.

    Markers that a killed service left for its workers are removed.

    Args:
        port: PORT.
        beside: whether another service is leaving this folder. Its markers are kept then.
        pid: pid of the service, None for this process.

    Raises:
        StartError: as `prepare` does.
    """
    place = prepare(port)
    if not beside:
        _unlink([place / KEYS, *_markers(place)])
    pid = pid or os.getpid()
    content = f"{pid} {start_time(pid)}"
    try:
        atomic_write(place / SERVICE, content)
    except FileNotFoundError:  # an ending supervisor has just removed the folder
        atomic_write(prepare(port) / SERVICE, content)


def end_service(port: int) -> None:
    """Remove the pid file, unless another service has replaced it."""
    if service_pid(folder(port)) == os.getpid():
        _unlink([folder(port) / SERVICE])


def service(port: int) -> int | None:
    """Return the pid of the service on a port, None if none runs."""
    return service_pid(home(port))


def service_pid(path: Path) -> int | None:
    """Return the pid of the service of a folder, None if none runs.

    The folders below /tmp have predictable names, so another user may have made them.
    """
    try:
        if not all(is_own(level.lstat()) for level in (path.parent, path)):
            return None
        pid, start = (read_own(path / SERVICE) or "").split()
        now = start_time(int(pid))
        return int(pid) if now is not None and abs(now - float(start)) < SAME_START else None
    except (OSError, ValueError):
        return None


def read(path: Path) -> str:
    """Read a marker, which other processes create and remove; empty if it does not exist.

    Workers call this often. A failed `access` takes a tenth of the time of a failed `open`.
    """
    if not os.access(path, os.F_OK):
        return ""
    return read_own(path) or ""


def prefix() -> str:
    """Return the prefix of this supervisor's files, which keeps those of a successor apart."""
    return f"e{os.getpid()}-"


def sweep(path: Path) -> None:
    """Kill the engines of a killed supervisor, and remove its sockets and pid files.

    Only processes whose command line names these files are killed, since pids are reused.
    """
    for pidfile in path.glob("e*.pid"):
        own = str(pidfile.with_suffix(""))
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int(pidfile.read_text()))
            if any(f"{own}." in argument for argument in process.cmdline()):
                os.killpg(process.pid, signal.SIGKILL)
    _unlink(path.glob("e*"))


def empty(path: Path) -> None:
    """Remove the control socket, pid file and markers of a killed service."""
    names = (CONTROL, SERVICE, SERVICE.replace(".pid", ".new"), KEYS)
    _unlink([*(path / name for name in names), *_markers(path)])


def stay(path: Path) -> None:
    """Touch the files of a folder, since systemd removes unused files in /tmp after ten days.

    It keeps sockets in use. The control socket's modification time identifies it and must stay.
    """
    files = (path / SERVICE, path / KEYS, path.with_suffix(START_LOCK))
    for file in (*files, *path.glob("e*.pid")):
        with contextlib.suppress(OSError):
            os.utime(file)


def control_identity(path: Path) -> tuple[int, int] | None:
    """Return an identity of the control socket in a folder; None if there is none."""
    try:
        status = (path / CONTROL).stat()
    except OSError:
        return None
    # The inode number alone may be reused by the next socket.
    return status.st_ino, status.st_mtime_ns


def remove(path: Path, control: tuple[int, int] | None) -> None:
    """Remove the files of this supervisor, and the folder if it is empty.

    Args:
        path: the instance's folder.
        control: `control_identity` of this supervisor's socket. A successor's socket stays.
    """
    _unlink(path.glob(f"{prefix()}*"))
    if control is not None and control_identity(path) == control:
        _unlink([path / CONTROL, *_markers(path)])
        if service_pid(path) is None:
            _unlink([path / SERVICE, path / KEYS])
    for level in (path, path.parent):
        with contextlib.suppress(OSError):
            level.rmdir()


def _markers(path: Path) -> list[Path]:
    names = (RECYCLE, DRAIN, PHASE, NEWS, STACKS)
    markers = [file for name in names for file in path.glob(f"{name}*")]
    return [*markers, *path.glob(".*")]  # `atomic_write` leaves such a file when it is killed


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def version(settings: Settings) -> str:
    """Return a fingerprint of the supervisor's sources and settings.

    Args:
        settings: the service's settings. After a quick restart with other settings, the supervisor
            of the previous service may still run.

    Returns:
        16 hexadecimal digits. Below a gunicorn master, the fingerprint of that master, since the
        files may be those of a newer version by now.
    """
    if inherited := os.environ.get(VERSION):
        return inherited
    digest = hashlib.sha256(settings.model_dump_json(exclude=set(_GATEWAY_ONLY)).encode())
    digest.update(settings.models.text.encode())
    for source in sources():
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def sources() -> list[Path]:
    """List the source files of the supervisor and its child processes."""
    root = Path(__file__).parent.parent
    return sorted(file for pattern in _SOURCES for file in root.glob(pattern))
