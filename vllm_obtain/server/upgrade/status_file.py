"""Status of an upgrade, in a file that `vllm-obtain upgrade` reads."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from vllm_obtain.control import runtime_dir
from vllm_obtain.fs import atomic_write

INTERVAL = 0.2
State = Literal["idle", "under way", "failed"]


# Older and newer versions read this file, so the keys stay the same.
class UpgradeStatus(msgspec.Struct, frozen=True, rename={"message": "told"}):
    """Status of the last upgrade.

    Args:
        pid: pid of the service that wrote the status.
        state: state of the upgrade.
        message: message for the user.
        at: time of writing, in monotonic seconds.
    """

    pid: int
    state: State
    message: str = ""
    at: float = 0.0


def write(port: int, state: State, message: str = "") -> None:
    """Write the status. A missing folder is ignored."""
    path = runtime_dir.folder(port) / runtime_dir.NEWS
    status = UpgradeStatus(os.getpid(), state, message, time.monotonic())
    with contextlib.suppress(OSError):
        atomic_write(path, msgspec.json.encode(status))


def upgrade(port: int, report: Callable[[str], None]) -> bool:
    """Replace the service on a port by the installed version.

    Args:
        port: PORT.
        report: receives messages for the user.

    Returns:
        Whether the new version serves requests.
    """
    pid = runtime_dir.service(port)
    if pid is None:
        report(
            f"No service of the current user is running on port {port}. "
            "Start one with `vllm-obtain serve`."
        )
        return False
    if _read(runtime_dir.home(port), pid) is None:
        report(
            f"The service on port {port} (pid {pid}) does not support upgrades while it runs: it "
            "is the development server, or older than this command. Restart it instead."
        )
        return False
    requested_at, last_message = time.monotonic(), ""
    os.kill(pid, signal.SIGUSR2)
    while (now := runtime_dir.service(port)) in (pid, None):
        status = _read(runtime_dir.home(port), pid)
        if now is None and not _is_running(pid):
            report("The service ended during the upgrade. See app.log and errors.log in LOG_DIR.")
            return False
        if status is not None and status.at >= requested_at:
            if status.state == "failed":
                report(status.message)
                return False
            if status.message != last_message:
                last_message = status.message
                report(last_message)
        time.sleep(INTERVAL)
    report(
        f"The new version serves port {port} (pid {now}). The old one finishes its requests in "
        "flight."
    )
    return True


def _read(folder: Path, pid: int) -> UpgradeStatus | None:
    try:
        status = msgspec.json.decode((folder / runtime_dir.NEWS).read_bytes(), type=UpgradeStatus)
    except (OSError, msgspec.DecodeError):
        return None
    return status if status.pid == pid else None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
