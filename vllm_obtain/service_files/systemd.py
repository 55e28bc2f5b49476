"""The unit of systemd."""

from __future__ import annotations

from pathlib import Path

from vllm_obtain.service_files.plan import OPEN_FILES, Plan

MARK = "# Written by `vllm-obtain service install`."

_UNIT = """\
{mark} Changes of your own: `systemctl {user_flag}edit {name}`.
[Unit]
Description=vllm-obtain, an OpenAI-compatible service over local models
After=network-online.target
Wants=network-online.target
# It is tried again for ever: what keeps it from starting may be repaired.
StartLimitIntervalSec=0

[Service]
# gunicorn says when it listens; models load after that.
Type=notify
{as_whom}WorkingDirectory={folder}
{before}ExecStart={command}
# `systemctl reload`: the version that is installed now takes over, and nobody is cut off.
ExecReload=/bin/kill -USR2 $MAINPID
Restart=always
RestartSec=5
TimeoutStartSec=300

# SIGTERM goes to the first process alone, which finishes what runs (GRACE_PERIOD); what is left
# after that, or after TimeoutStopSec, is killed.
KillMode=mixed
TimeoutStopSec={stop}

# When memory runs out, the kernel kills the largest process, an engine. The service starts it anew;
# by default systemd would end the service.
OOMPolicy=continue

LimitNOFILE={files}
TasksMax=16384
{guards}
[Install]
WantedBy={wanted}
"""

_GUARDS = """
# It may write where it works, and nowhere else. /tmp is its own: sockets lie there, which nobody
# else needs to see and no cleaner of old files shall remove. So `systemctl stop` ends it, and
# `vllm-obtain stop` does not find it.
ProtectSystem=strict
ReadWritePaths={writes}
CacheDirectory={name}
Environment=XDG_CACHE_HOME=%C/{name} TRITON_CACHE_DIR=%C/{name}/triton
TemporaryFileSystem=/tmp:mode=1777,nosuid /var/tmp:mode=1777,nosuid
{home}
NoNewPrivileges=yes
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
LockPersonality=yes
SystemCallArchitectures=native
KeyringMode=private
UMask=0077
# Left open on purpose: GPUs are devices (PrivateDevices), and their libraries compile code while
# they run (MemoryDenyWriteExecute).
"""

# With the service's rights CUDA could not do so itself.
_MODPROBE = """\
# Makes the device of CUDA, which nobody else may have needed yet.
ExecStartPre=-+{program} -u -c=0
"""


def unit(plan: Plan) -> str:
    """Write the unit.

    Args:
        plan: what it runs. A user's own service has no guards: most of them need a privilege there.
    """
    home = "# The homes of people stay visible: it works in one." if plan.is_in_a_home else ""
    writes = " ".join(_path(f"-{place}") for place in (plan.folder, *plan.writes))
    guards = _GUARDS.format(
        writes=writes,
        name=plan.name,
        home=home or "ProtectHome=yes",
        capabilities="CAP_NET_BIND_SERVICE" if plan.port < 1024 else "",
    )
    return _UNIT.format(
        mark=MARK,
        name=plan.name,
        user_flag="" if plan.system else "--user ",
        as_whom=f"User={plan.user}\n" if plan.system else "",
        folder=_path(str(plan.folder), quoted=False),
        before=_MODPROBE.format(program=plan.modprobe) if plan.modprobe and plan.system else "",
        command=" ".join(_path(word) for word in plan.command),
        stop=plan.stop_seconds,
        files=OPEN_FILES,
        guards=guards if plan.system else "\nNoNewPrivileges=yes\n",
        wanted="multi-user.target" if plan.system else "default.target",
    )


def path(plan: Plan, home: Path) -> Path:
    """Where the unit belongs."""
    if plan.system:
        return Path("/etc/systemd/system") / f"{plan.name}.service"
    return home / ".config/systemd/user" / f"{plan.name}.service"


def start(plan: Plan) -> list[list[str]]:
    """The commands that start it, now and with the machine (or when its user logs in)."""
    return [
        _ctl(plan, "daemon-reload"),
        _ctl(plan, "enable", plan.name),
        _ctl(plan, "restart", plan.name),
    ]


def stop(plan: Plan) -> list[list[str]]:
    """The commands that end it, for good."""
    return [_ctl(plan, "disable", "--now", plan.name)]


def after(plan: Plan) -> list[list[str]]:
    """The commands for when the unit is gone."""
    return [_ctl(plan, "daemon-reload")]


def state(plan: Plan) -> list[str]:
    """The command that tells how it is."""
    fields = "LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts,ActiveEnterTimestamp"
    return _ctl(plan, "show", plan.name, f"--property={fields}")


def understood(said: str) -> dict[str, str]:
    """Read what that command says."""
    pairs = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    pid = pairs.get("MainPID", "0")
    return {
        "state": pairs.get("ActiveState", "unknown"),
        "detail": pairs.get("SubState", ""),
        "at start": pairs.get("UnitFileState", ""),
        "pid": "" if pid == "0" else pid,
        "restarts": pairs.get("NRestarts", ""),
        "since": pairs.get("ActiveEnterTimestamp", ""),
    }


def _ctl(plan: Plan, *words: str) -> list[str]:
    return ["systemctl", *([] if plan.system else ["--user"]), *words]


def _path(text: str, quoted: bool = True) -> str:
    """Write a word so that systemd takes it as it is: % begins a specifier there."""
    text = text.replace("%", "%%")
    if quoted:
        text = text.replace("$", "$$")
    return f'"{text}"' if quoted and any(c in text for c in " ;'") else text
