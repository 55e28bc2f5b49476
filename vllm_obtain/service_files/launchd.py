"""The property list of launchd. Written from Apple's manual; not tried on a Mac by us yet."""

from __future__ import annotations

import os
import plistlib
import re
from pathlib import Path

from vllm_obtain.service_files.plan import OPEN_FILES, Plan

MARK = "<!-- Written by `vllm-obtain service install`. -->"


def label(plan: Plan) -> str:
    """What launchd calls it."""
    return f"local.{plan.name}"


def plist(plan: Plan) -> str:
    """Write the property list.

    Args:
        plan: what it runs.
    """
    logs = plan.folder / "logs"
    content: dict[str, object] = {
        "Label": label(plan),
        "ProgramArguments": list(plan.command),
        "WorkingDirectory": str(plan.folder),
        "RunAtLoad": True,
        "KeepAlive": True,
        # Not more often than every so many seconds.
        "ThrottleInterval": 10,
        # launchd sends SIGTERM to the first process alone, and kills it after so many seconds; its
        # own 20 would cut what GRACE_PERIOD allows.
        "ExitTimeOut": plan.stop_seconds,
        # Other kinds of jobs get less of the processor and the disk.
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


def path(plan: Plan, home: Path) -> Path:
    """Where the property list belongs."""
    if plan.system:
        return Path("/Library/LaunchDaemons") / f"{label(plan)}.plist"
    return home / "Library/LaunchAgents" / f"{label(plan)}.plist"


def start(plan: Plan, home: Path) -> list[list[str]]:
    """The commands that start it, now and with the machine (or when its user logs in)."""
    return [["launchctl", "bootstrap", _domain(plan), str(path(plan, home))]]


def stop(plan: Plan) -> list[list[str]]:
    """The commands that end it, for good."""
    return [["launchctl", "bootout", f"{_domain(plan)}/{label(plan)}"]]


def state(plan: Plan) -> list[str]:
    """The command that tells how it is."""
    return ["launchctl", "print", f"{_domain(plan)}/{label(plan)}"]


def understood(said: str) -> dict[str, str]:
    """Read what that command says, which is for people; what is not found is left out."""

    def value(name: str) -> str:
        found = re.search(rf"^\s*{name} = (.+)$", said, re.MULTILINE)
        return found[1] if found else ""

    running = value("state")
    return {
        "state": "active" if running == "running" else running or "inactive",
        "detail": value("last exit code"),
        "pid": value("pid"),
        "restarts": value("runs"),
    }


def _domain(plan: Plan) -> str:
    return "system" if plan.system else f"gui/{os.getuid()}"
