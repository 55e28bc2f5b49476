"""Unit file for systemd, see systemd.service(5) and systemd.exec(5)."""

from __future__ import annotations

from pathlib import Path

from vllm_obtain.os_service.plan import OPEN_FILES, ServicePlan

MARK = "# Written by `vllm-obtain service install`."

_UNIT = """\
{mark} To customize it: `systemctl {user_flag}edit {name}`.
[Unit]
Description=vllm-obtain, self-hosted OpenAI-compatible LLM server
After=network-online.target
Wants=network-online.target
# Restart without limit, because the cause of a failed start may be fixed later.
StartLimitIntervalSec=0

[Service]
# gunicorn notifies systemd when it listens. Models load after that.
Type=notify
{user_line}WorkingDirectory={folder}
{modprobe_line}ExecStart={command}
# `systemctl reload` upgrades to the installed version without downtime.
ExecReload=/bin/kill -USR2 $MAINPID
Restart=always
RestartSec=5
TimeoutStartSec=300

# SIGTERM goes to the main process only, which waits for requests in flight (GRACE_PERIOD). All
# processes left after its end, or after TimeoutStopSec, are killed.
KillMode=mixed
TimeoutStopSec={stop}

# On OOM the kernel kills the largest process, an engine, and the service restarts it. By default
# systemd would stop the service.
OOMPolicy=continue

LimitNOFILE={files}
TasksMax=16384
{sandbox}
[Install]
WantedBy={wanted}
"""

_SANDBOX = """
# Write access is limited to the folders of the service. The private /tmp hides its sockets from
# other users and cleanup jobs, so use `systemctl stop`: `vllm-obtain stop` cannot find the service.
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
# Not set: PrivateDevices, because GPUs are devices, and MemoryDenyWriteExecute, because GPU
# libraries compile code at run time.
"""

# With the permissions of the service, CUDA cannot create its device itself.
_MODPROBE = """\
# Create the CUDA device, which may not exist yet after boot.
ExecStartPre=-+{program} -u -c=0
"""


def unit(plan: ServicePlan) -> str:
    """Render the unit file.

    Args:
        plan: the service. A user service has no sandbox, because most options need root.
    """
    home = "# Home folders stay visible, because the service uses one." if plan.uses_home else ""
    writes = " ".join(_path(f"-{place}") for place in (plan.folder, *plan.writes))
    sandbox = _SANDBOX.format(
        writes=writes,
        name=plan.name,
        home=home or "ProtectHome=yes",
        capabilities="CAP_NET_BIND_SERVICE" if plan.port < 1024 else "",
    )
    return _UNIT.format(
        mark=MARK,
        name=plan.name,
        user_flag="" if plan.system else "--user ",
        user_line=f"User={plan.user}\n" if plan.system else "",
        folder=_path(str(plan.folder), quoted=False),
        modprobe_line=_MODPROBE.format(program=plan.modprobe)
        if plan.modprobe and plan.system
        else "",
        command=" ".join(_path(word) for word in plan.command),
        stop=plan.stop_seconds,
        files=OPEN_FILES,
        sandbox=sandbox if plan.system else "\nNoNewPrivileges=yes\n",
        wanted="multi-user.target" if plan.system else "default.target",
    )


def path(plan: ServicePlan, home: Path) -> Path:
    if plan.system:
        return Path("/etc/systemd/system") / f"{plan.name}.service"
    return home / ".config/systemd/user" / f"{plan.name}.service"


def start(plan: ServicePlan) -> list[list[str]]:
    """Commands that start the service, now and at boot or login."""
    return [
        _ctl(plan, "daemon-reload"),
        _ctl(plan, "enable", plan.name),
        _ctl(plan, "restart", plan.name),
    ]


def stop(plan: ServicePlan) -> list[list[str]]:
    """Commands that stop the service and disable it."""
    return [_ctl(plan, "disable", "--now", plan.name)]


def after(plan: ServicePlan) -> list[list[str]]:
    """Commands to run after the unit file was removed."""
    return [_ctl(plan, "daemon-reload")]


def state(plan: ServicePlan) -> list[str]:
    """Command that prints the state of the service."""
    fields = "LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts,ActiveEnterTimestamp"
    return _ctl(plan, "show", plan.name, f"--property={fields}")


def parse_state(output: str) -> dict[str, str]:
    pairs = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    pid = pairs.get("MainPID", "0")
    return {
        "state": pairs.get("ActiveState", "unknown"),
        "detail": pairs.get("SubState", ""),
        "at start": pairs.get("UnitFileState", ""),
        "pid": "" if pid == "0" else pid,
        "restarts": pairs.get("NRestarts", ""),
        "since": pairs.get("ActiveEnterTimestamp", ""),
    }


def _ctl(plan: ServicePlan, *arguments: str) -> list[str]:
    return ["systemctl", *([] if plan.system else ["--user"]), *arguments]


def _path(text: str, quoted: bool = True) -> str:
    """Escape a word for a unit file, where % starts a specifier and $ a variable."""
    text = text.replace("%", "%%")
    if quoted:
        text = text.replace("$", "$$")
    return f'"{text}"' if quoted and any(c in text for c in " ;'") else text
