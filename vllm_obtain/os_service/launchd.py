"""Property list for launchd, see launchd.plist(5). Not yet tested on macOS."""

from __future__ import annotations

import os
import plistlib
import re
from pathlib import Path

from vllm_obtain.os_service.plan import OPEN_FILES, ServicePlan

MARK = "<!-- Written by `vllm-obtain service install`. -->"


def label(plan: ServicePlan) -> str:
    """Label of the service in launchd."""
    return f"local.{plan.name}"


def plist(plan: ServicePlan) -> str:
    logs = plan.folder / "logs"
    content: dict[str, object] = {
        "Label": label(plan),
        "ProgramArguments": list(plan.command),
        "WorkingDirectory": str(plan.folder),
        "RunAtLoad": True,
        "KeepAlive": True,
        # Minimum seconds between two starts.
        "ThrottleInterval": 10,
        # Seconds between SIGTERM and SIGKILL. The default of 20 is less than GRACE_PERIOD allows.
        "ExitTimeOut": plan.stop_seconds,
        # macOS limits CPU and disk of other process types.
        "ProcessType": "Interactive",
        "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES},
        "HardResourceLimits": {"NumberOfFiles": OPEN_FILES},
        "StandardOutPath": str(logs / "launchd.log"),
        "StandardErrorPath": str(logs / "launchd.log"),
        "EnvironmentVariables": {"PATH": "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin"},
    }
    if plan.system:
        content["UserName"] = plan.user
    text = plistlib.dumps(content, sort_keys=False).decode()
    return text.replace("<plist", f"{MARK}\n<plist", 1)


def path(plan: ServicePlan, home: Path) -> Path:
    if plan.system:
        return Path("/Library/LaunchDaemons") / f"{label(plan)}.plist"
    return home / "Library/LaunchAgents" / f"{label(plan)}.plist"


def start(plan: ServicePlan, home: Path) -> list[list[str]]:
    """Commands that start the service, now and at boot or login."""
    return [["launchctl", "bootstrap", _domain(plan), str(path(plan, home))]]


def stop(plan: ServicePlan) -> list[list[str]]:
    """Commands that stop the service and disable it."""
    return [["launchctl", "bootout", f"{_domain(plan)}/{label(plan)}"]]


def state(plan: ServicePlan) -> list[str]:
    """Command that prints the state of the service."""
    return ["launchctl", "print", f"{_domain(plan)}/{label(plan)}"]


def parse_state(output: str) -> dict[str, str]:
    """Parse the output of that command. Missing values are empty."""

    def value(name: str) -> str:
        match = re.search(rf"^\s*{name} = (.+)$", output, re.MULTILINE)
        return match[1] if match else ""

    running = value("state")
    return {
        "state": "active" if running == "running" else running or "inactive",
        "detail": value("last exit code"),
        "pid": value("pid"),
        "restarts": value("runs"),
    }


def _domain(plan: ServicePlan) -> str:
    return "system" if plan.system else f"gui/{os.getuid()}"
