"""Description of a service to install: command, user, folders and port."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import StartError

# Seconds after GRACE_PERIOD to send the last bytes and to end the engines.
SHUTDOWN_SECONDS = 30
OPEN_FILES = 65_536
NAME = "vllm-obtain"


@dataclass(frozen=True)
class ServicePlan:
    """A service to install.

    Args:
        command: program and arguments; the program stays the main process.
        folder: working directory with `.env`, `models/` and `logs/`.
        system: whether it is a system service; otherwise a user service.
        user: user of a system service.
        grace: GRACE_PERIOD in seconds.
        writes: folders besides `folder` that the service writes to.
        port: PORT.
        name: name of the service, unique on the machine.
        modprobe: path of `nvidia-modprobe`; empty if not installed.
    """

    command: tuple[str, ...]
    folder: Path
    system: bool
    user: str
    grace: float
    writes: tuple[Path, ...] = ()
    port: int = 8001
    name: str = NAME
    modprobe: str = ""

    @property
    def stop_seconds(self) -> int:
        """Maximum seconds that stopping the service may take."""
        return int(self.grace) + SHUTDOWN_SECONDS

    @property
    def uses_home(self) -> bool:
        """Whether the service uses files below a home folder."""
        homes = ("/home/", "/root/", "/run/user/")
        paths = (self.folder, *self.writes, Path(self.command[0]))
        return any(f"{path}/".startswith(homes) for path in paths)


def make(folder: Path, system: bool, user: str = "", name: str = NAME) -> ServicePlan:
    """Create the plan of a service with the settings in the `.env` of its folder.

    Args:
        folder: working directory of the service.
        system: whether it is a system service.
        user: user of the service; empty for the owner of the folder, or for a user service the
            current user.
        name: name of the service.

    Raises:
        StartError: the folder does not exist, or a name or path contains invalid characters.
        SettingsError: a setting is invalid.
    """
    folder = folder.expanduser().absolute()
    if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,60}", name):
        raise StartError(
            f"Invalid service name {name!r}. Use up to 61 letters, digits, - and _, starting with "
            "a letter or digit."
        )
    if not folder.is_dir():
        raise StartError(f"The folder {folder} does not exist. Create it, with your .env in it.")
    # The environment of this process is not that of the service.
    with contextlib.chdir(folder):
        settings = Settings.load({}, Path(".env"))
    models, logs, keys = (
        _path(settings, field, folder) for field in ("models_dir", "log_dir", "keys_file")
    )
    writes = [models, logs, keys.parent]
    outside = dict.fromkeys(path for path in writes if not path.is_relative_to(folder))
    plan = ServicePlan(
        command=(*_program(), "serve", "--no-fetch"),
        folder=folder,
        system=system,
        user=user or (_owner(folder) if system else getpass.getuser()),
        grace=settings.grace_period,
        writes=tuple(outside),
        port=settings.port,
        name=name,
        modprobe=shutil.which("nvidia-modprobe") or "",
    )
    for text in (*plan.command, *map(str, (folder, *plan.writes)), plan.user):
        if any(character < " " or character in '"\\' for character in text):
            raise StartError(f"{text!r} contains characters that a service file cannot contain.")
    return plan


def _path(settings: Settings, field: str, folder: Path) -> Path:
    """Path setting as seen by a service with this working directory."""
    value: Path = getattr(settings, field)
    # Defaults were computed from the working directory of this process.
    path = value if field in settings.model_fields_set else folder / value.name
    # Resolves `..`, so that `is_relative_to` is correct.
    return Path(os.path.normpath(path))


def _program() -> tuple[str, ...]:
    """Command of this environment; a source checkout may not have it installed."""
    script = Path(sys.executable).with_name(NAME)
    return (str(script),) if script.exists() else (sys.executable, "-m", "vllm_obtain")


def _owner(folder: Path) -> str:
    try:
        return folder.owner()
    except (KeyError, OSError):
        return str(folder.stat().st_uid)
