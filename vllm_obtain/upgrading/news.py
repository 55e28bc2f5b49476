"""What an upgrade comes to, for who asked for it: a file beside the service's sockets."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from vllm_obtain.supervisor import runtime

INTERVAL = 0.2
State = Literal["idle", "under way", "failed"]


class News(msgspec.Struct, frozen=True):
    """How far it is.

    Args:
        pid: the service that writes this.
        state: of its last upgrade.
        told: in a sentence.
        at: when, in monotonic seconds.
    """

    pid: int
    state: State
    told: str = ""
    at: float = 0.0


def write(port: int, state: State, told: str = "") -> None:
    """Tell it; a folder that has gone has nobody who reads."""
    path = runtime.folder(port) / runtime.NEWS
    new = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        new.write_bytes(msgspec.json.encode(News(os.getpid(), state, told, time.monotonic())))
        new.replace(path)


def upgrade(port: int, told: Callable[[str], None]) -> bool:
    """Ask the service on a port to be replaced by the version that is installed now.

    Args:
        port: PORT.
        told: given what there is to say.

    Returns:
        Whether the new version serves.
    """
    pid = runtime.service(port)
    if pid is None:
        told(f"No service of this user runs on port {port}. Start one: vllm-obtain serve.")
        return False
    if _read(runtime.home(port), pid) is None:
        told(
            f"The service on port {port} (pid {pid}) cannot be replaced while it runs: it is the "
            "development server, or older than this command. Stop it and start it again."
        )
        return False
    asked, last = time.monotonic(), ""
    os.kill(pid, signal.SIGUSR2)
    while (now := runtime.service(port)) in (pid, None):
        news = _read(runtime.home(port), pid)
        if now is None and not _lives(pid):
            told("The service has ended meanwhile; see app.log and errors.log under LOG_DIR.")
            return False
        if news is not None and news.at >= asked:
            if news.state == "failed":
                told(news.told)
                return False
            if news.told != last:
                last = news.told
                told(last)
        time.sleep(INTERVAL)
    told(f"The new version serves on port {port} (pid {now}); the old one finishes what it has.")
    return True


def _read(folder: Path, pid: int) -> News | None:
    try:
        news = msgspec.json.decode((folder / runtime.NEWS).read_bytes(), type=News)
    except (OSError, msgspec.DecodeError):
        return None
    return news if news.pid == pid else None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
