"""The files of systemd and launchd, and the command that installs them."""

from __future__ import annotations

import json
import os
import plistlib
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.tools import DEPLOY, program
from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import ROOT, Service
from vllm_obtain.errors import StartError
from vllm_obtain.os_service import launchd, plan, systemd
from vllm_obtain.os_service.manager import ServiceManager
from vllm_obtain.os_service.plan import ServicePlan

# The service that the files of this repository are written for.
SHIPPED = ServicePlan(
    command=("/opt/vllm-obtain/bin/vllm-obtain", "serve", "--no-fetch"),
    folder=Path("/var/lib/vllm-obtain"),
    system=True,
    user="vllm-obtain",
    grace=30,
)
UNIT = DEPLOY / "systemd" / "vllm-obtain.service"
PLIST = DEPLOY / "launchd" / "local.vllm-obtain.plist"
SAID = "ActiveState=active\nSubState=running\nUnitFileState=enabled\nMainPID=12\nNRestarts=1\n"


def service_plan(folder: Path, system: bool = True) -> ServicePlan:
    """The service of a folder of this machine."""
    return plan.make(folder, system=system, user="daemon" if system else "")


def fields(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize(("path", "text"), [(UNIT, systemd.unit), (PLIST, launchd.plist)])
def test_the_files_here_are_what_the_command_writes(path: Path, text: object) -> None:
    assert callable(text)
    assert path.read_text() == text(SHIPPED)


@pytest.mark.parametrize("system", [True, False], ids=["system", "user"])
def test_systemd_accepts_the_unit(system: bool, tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    folder = tmp_path / "with a space & 100%"
    folder.mkdir()
    (folder / ".env").write_text(f"MODELS_DIR={tmp_path}/models\nPORT=443\n")
    unit = tmp_path / "vllm-obtain.service"
    unit.write_text(systemd.unit(service_plan(folder, system)))
    command = [analyze, *([] if system else ["--user"]), "--man=no", "verify", str(unit)]
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    ours = [line for line in result.stderr.splitlines() if "vllm-obtain" in line]
    assert (result.returncode, ours) == (0, []), result.stderr


def test_the_unit_leaves_little_open(tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    unit = tmp_path / "vllm-obtain.service"
    unit.write_text(systemd.unit(SHIPPED))
    command = [analyze, "security", "--offline=true", "--threshold=40", "--no-pager", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-300:] + result.stderr


def test_the_unit_leaves_time_to_finish(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"GRACE_PERIOD=120\nLOG_DIR={tmp_path.parent}/elsewhere\n")
    found = fields(systemd.unit(service_plan(tmp_path)))
    assert int(found["TimeoutStopSec"]) > 120
    assert found["KillMode"] == "mixed" and found["OOMPolicy"] == "continue"
    assert found["User"] == "daemon" and found["WorkingDirectory"] == str(tmp_path)
    assert f"-{tmp_path.parent}/elsewhere" in found["ReadWritePaths"].split()
    assert found["CapabilityBoundingSet"] == ""
    told = plistlib.loads(launchd.plist(service_plan(tmp_path)).encode())
    assert told["ExitTimeOut"] > 120 and told["KeepAlive"] and told["UserName"] == "daemon"


def test_where_somebody_stands_who_installs_it_is_nothing_to_the_service(tmp_path: Path) -> None:
    code = "import sys; from vllm_obtain.os_service import plan; from pathlib import Path; "
    code += "print(plan.make(Path(sys.argv[1]), system=True).writes)"
    folder, elsewhere = tmp_path / "service", tmp_path / "elsewhere"
    for each in (folder, elsewhere):
        each.mkdir()
    command = [sys.executable, "-c", code, str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
    assert result.stdout.strip() == "()", result.stdout + result.stderr
    (folder / ".env").write_text("MODELS_DIR=../models\n")
    result = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
    assert "models" in result.stdout and "elsewhere" not in result.stdout


def test_a_service_of_a_user_asks_for_nothing_that_takes_root(tmp_path: Path) -> None:
    text = systemd.unit(service_plan(tmp_path, system=False))
    assert "User=" not in text and "ProtectSystem" not in text and "CacheDirectory" not in text
    assert "WantedBy=default.target" in text
    assert "UserName" not in launchd.plist(service_plan(tmp_path, system=False))


def test_homes_are_closed_unless_it_lives_in_one() -> None:
    assert "ProtectHome=yes" in systemd.unit(SHIPPED)
    home = ServicePlan(SHIPPED.command, Path("/home/me/llm"), True, "me", 30)
    assert "ProtectHome" not in systemd.unit(home)


def test_instances_have_names_of_their_own(tmp_path: Path) -> None:
    second = plan.make(tmp_path, system=True, name="vllm-obtain-2")
    assert systemd.path(second, tmp_path) == Path("/etc/systemd/system/vllm-obtain-2.service")
    assert fields(systemd.unit(second))["CacheDirectory"] == "vllm-obtain-2"
    assert systemd.state(second)[:3] == ["systemctl", "show", "vllm-obtain-2"]
    assert plistlib.loads(launchd.plist(second).encode())["Label"] == "local.vllm-obtain-2"
    with pytest.raises(StartError, match="Invalid service name"):
        plan.make(tmp_path, system=True, name="../x")


def test_odd_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"The folder .* does not exist"):
        plan.make(tmp_path / "none", system=True)
    odd = tmp_path / 'a"b'
    odd.mkdir()
    with pytest.raises(StartError, match="a service file cannot contain"):
        plan.make(odd, system=True)


def test_gunicorn_tells_systemd_when_it_listens(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    write_model(models, "a")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(30)
        env = {**ENVIRONMENT, "MODELS_DIR": str(models), "NOTIFY_SOCKET": str(tmp_path / "notify")}
        command = ["-m", "vllm_obtain", "serve", "--no-fetch"]
        with Service(command, tmp_path, env) as service:
            assert b"READY=1" in told.recv(1000)
            assert service.json("/health")
            # systemd believes the first process alone: it is still the one that it started.
            assert service.process is not None and service.process.poll() is None


class Machine:
    """A folder with a `systemctl` and a `launchctl` that note what they are asked."""

    def __init__(self, place: Path) -> None:
        self.home = place / "home"
        self.bin = place / "bin"
        self._log = place / "asked"
        for folder in (self.home, self.bin):
            folder.mkdir()
        for name in ("systemctl", "launchctl"):
            script = self.bin / name
            script.write_text(
                f'#!/bin/sh\necho "{name} $*" >> {self._log}\n'
                f'[ -e {place}/broken ] && echo "it is broken" >&2 && exit 1\n'
                f'case "$*" in *show*) printf "{SAID}";; '
                '*print*) printf "x = {\\n\\tstate = running\\n\\tpid = 12\\n\\truns = 2\\n}";; '
                "esac\n"
            )
            script.chmod(0o755)
        self.broken = place / "broken"
        self.folder = place / "service"
        self.folder.mkdir()

    @property
    def calls(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command itself."""
        return subprocess.run(
            [sys.executable, "-m", "vllm_obtain", "service", *words],
            cwd=self.folder,
            env={
                **os.environ,
                "HOME": str(self.home),
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            text=True,
        )


@pytest.mark.skipif(sys.platform == "darwin", reason="there it is launchd's")
def test_the_command_installs_and_removes(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    unit = machine.home / ".config/systemd/user/vllm-obtain.service"
    assert machine.run("status").returncode == 4
    output = machine.run("install", "--print")
    assert output.returncode == 0 and not unit.exists() and machine.calls == []
    done = machine.run("install")
    assert done.returncode == 0, done.stderr
    assert unit.read_text() == output.stdout
    assert machine.calls == [
        "systemctl --user daemon-reload",
        "systemctl --user enable vllm-obtain",
        "systemctl --user restart vllm-obtain",
    ]
    told = machine.run("status", "--json")
    assert told.returncode == 0
    assert json.loads(told.stdout)["pid"] == "12"
    machine.broken.touch()
    assert "it is broken" in machine.run("install").stderr
    assert machine.run("status").returncode == 3
    assert machine.run("uninstall").returncode == 0
    assert not unit.exists()
    assert "is not installed" in machine.run("uninstall").stderr


def test_a_file_of_somebody_else_stays(tmp_path: Path) -> None:
    manager = ServiceManager(service_plan(tmp_path, system=False), home=tmp_path, system="Linux")
    manager.path.parent.mkdir(parents=True)
    manager.path.write_text("[Unit]\n")
    for act in (lambda: manager.install(start=False), manager.uninstall):
        with pytest.raises(StartError, match="was not written by this command"):
            act()
    assert manager.path.read_text() == "[Unit]\n"


def test_launchd_is_asked_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", f"{machine.bin}:{os.environ['PATH']}")
    manager = ServiceManager(
        service_plan(machine.folder, system=False), home=machine.home, system="Darwin"
    )
    manager.install(start=True)
    label, path = f"gui/{os.getuid()}", manager.path
    assert path == machine.home / "Library/LaunchAgents/local.vllm-obtain.plist"
    assert plistlib.loads(path.read_bytes())["WorkingDirectory"] == str(machine.folder)
    assert machine.calls == [
        f"launchctl bootout {label}/local.vllm-obtain",
        f"launchctl bootstrap {label} {path}",
    ]
    assert manager.status()["state"] == "active" and manager.status()["pid"] == "12"
    manager.uninstall()
    assert not path.exists()


def test_where_nothing_manages_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    manager = ServiceManager(service_plan(tmp_path, system=False), home=tmp_path, system="Linux")
    with pytest.raises(StartError, match="systemctl was not found"):
        manager.install(start=True)
