"""The system's unit under a real systemd, with all its guards but three, and the change of user.

A container has no systemd that runs, so a manager of its own is started, in a private view of /run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.load import Result, ask
from tests.deploy.tools import get
from tests.fake_engine import ENVIRONMENT, write_model
from tests.ports import free_port
from tests.service import ROOT
from tests.waiting import eventually
from vllm_obtain.os_service import plan, systemd

SYSTEMD = Path("/lib/systemd/systemd")
NAME = "vllm-obtain"
# It needs the marks of a machine that systemd started, and nobody else shall see them.
START = f"""
mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/systemd/system /run/u
exec {SYSTEMD} --user --unit=basic.target
"""


class Manager:
    """A systemd of one's own."""

    def __init__(self, home: Path) -> None:
        self.units = home / ".config/systemd/user"
        self.units.mkdir(parents=True)
        self._env = {**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": "/run/u"}
        self._env |= {"SYSTEMD_LOG_TARGET": "console"}
        with (home / "systemd.txt").open("wb") as out:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", START],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run systemctl where it sees that systemd."""
        into = ["nsenter", "--mount", "--target", str(self.process.pid)]
        return subprocess.run(
            [*into, "systemctl", "--user", *words], env=self._env, capture_output=True, text=True
        )

    def value(self, field: str) -> str:
        """A property of the service."""
        return self.ask("show", NAME, f"--property={field}", "--value").stdout.strip()

    def end(self) -> None:
        self.ask("kill", "--signal=KILL", NAME)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    if not SYSTEMD.exists() or shutil.which("nsenter") is None or os.getuid() != 0:
        pytest.skip("it takes systemd, nsenter and root to run a systemd of one's own")
    made = Manager(tmp_path / "home")
    try:
        for _ in range(100):
            state = made.ask("is-system-running").stdout.strip()
            if state in ("running", "degraded"):
                break
            if made.process.poll() is not None:
                pytest.skip("systemd does not run in this container")
            with contextlib.suppress(subprocess.TimeoutExpired):
                made.process.wait(0.1)
        else:
            pytest.skip("systemd does not come up in this container")
        yield made
    finally:
        made.end()


def install(manager: Manager, folder: Path) -> int:
    """Write the unit of a service on the fake engine; tells its port."""
    (folder / "models").mkdir(parents=True)
    write_model(folder / "models", "a", pace=0.1)
    port = free_port()
    settings = {**ENVIRONMENT, "PORT": str(port), "ENABLE_CACHING": "false"}
    (folder / ".env").write_text("".join(f"{name}={each}\n" for name, each in settings.items()))
    text = systemd.unit(plan.make(folder, system=True, user="root"))
    (manager.units / f"{NAME}.service").write_text(text.replace("User=root\n", ""))
    # The files of this test may lie in /tmp, of which the service has one of its own.
    more = f"""[Service]
Environment=PYTHONPATH={ROOT}
BindReadOnlyPaths={ROOT} {sys.prefix}
BindPaths={folder}
RestartSec=100ms
# These hide places behind nodes that only the system's own systemd makes.
ProtectHome=no
ProtectKernelTunables=no
ProtectKernelLogs=no
"""
    (manager.units / f"{NAME}.service.d").mkdir()
    (manager.units / f"{NAME}.service.d" / "test.conf").write_text(more)
    manager.ask("daemon-reload")
    return port


def test_it_starts_is_started_again_and_drains(manager: Manager, tmp_path: Path) -> None:
    port = install(manager, tmp_path / "service")
    started = manager.ask("start", NAME)
    assert started.returncode == 0, (tmp_path / "home/systemd.txt").read_text()[-2000:]
    assert get(port, "/health")[0] == 200, "it listens when it is said to have started"
    eventually(lambda: get(port, "/ready")[0] == 200, timeout=30)
    assert ask(port, stream=False).whole
    check_sandbox(int(manager.value("MainPID")), tmp_path / "service")

    # The end of an engine is not the end of the service.
    engines(manager)
    assert eventually(lambda: ask(port, stream=False).whole, timeout=20)
    assert (manager.value("ActiveState"), manager.value("NRestarts")) == ("active", "0")

    # What is installed now takes over at a reload, behind the same first process.
    first = manager.value("MainPID")
    assert manager.ask("reload", NAME).returncode == 0
    eventually(lambda: b"pid_holder.py" in Path(f"/proc/{first}/cmdline").read_bytes(), timeout=40)
    assert ask(port, stream=False).whole
    assert (manager.value("MainPID"), manager.value("NRestarts")) == (first, "0")

    # The end of its first process is, and it is started again.
    os.kill(int(first), signal.SIGKILL)
    eventually(lambda: manager.value("MainPID") not in ("0", first), timeout=20)
    eventually(lambda: get(port, "/ready")[0] == 200, timeout=30)

    # Its end leaves time for what runs, and nothing behind.
    answers: list[Result] = []
    reader = threading.Thread(target=lambda: answers.append(ask(port, stream=True)))
    reader.start()
    eventually(lambda: b"requests_in_flight 1.0" in get(port, "/metrics")[1], timeout=10)
    assert manager.ask("stop", NAME).returncode == 0
    reader.join(20)
    assert answers[0].whole
    assert (manager.value("ActiveState"), manager.value("Result")) == ("inactive", "success")
    assert not process_ids(manager)


def check_sandbox(pid: int, folder: Path) -> None:
    """Look from outside at what a process may do."""
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status and "CapEff:\t0000000000000000" in status
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    options = {fields[4]: fields[5].split(",") for fields in mounts}
    assert "ro" in options["/"] and "rw" in options["/tmp"] and "rw" in options[str(folder)]
    assert list(Path(f"/proc/{pid}/root/tmp").glob("vllm-obtain-*")), "sockets in its own /tmp"


def process_ids(manager: Manager) -> list[int]:
    """The processes of the service."""
    group = manager.value("ControlGroup")
    found = Path(f"/sys/fs/cgroup/systemd{group}/cgroup.procs")
    if not group or not found.exists():
        found = Path(f"/sys/fs/cgroup{group}/cgroup.procs")
    return [int(pid) for pid in found.read_text().split()] if group and found.exists() else []


def engines(manager: Manager) -> None:
    """Kill the engines of the service."""
    killed = 0
    for pid in process_ids(manager):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(word.endswith(b"fake_engine_server.py") for word in words[:5]):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    assert killed
