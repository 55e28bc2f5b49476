"""What is to be run, as whom and where."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from vllm_obtain.errors import StartError
from vllm_obtain.settings import Settings

# After GRACE_PERIOD: the last bytes of answers, and the end of the engines.
LAST_SECONDS = 30
OPEN_FILES = 65_536
NAME = "vllm-obtain"


@dataclass(frozen=True)
class Plan:
    """One installed service.

    Args:
        command: what starts it, program and arguments, and stays its first process.
        folder: where it is started: `.env`, `models/` and `logs/` are those there.
        system: whether it is the machine's service, and not one of a user who is logged in.
        user: as whom the machine's service runs.
        grace: GRACE_PERIOD.
        writes: folders that it writes to, besides `folder`.
        port: PORT.
        name: of the service; several on one machine have several.
        modprobe: the program that makes the devices of NVIDIA's GPUs, empty where there is none.
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
        """How long its end may take."""
        return int(self.grace) + LAST_SECONDS

    @property
    def is_in_a_home(self) -> bool:
        """Whether it needs anything that lies where people have their files."""
        homes = ("/home/", "/root/", "/run/user/")
        places = (self.folder, *self.writes, Path(self.command[0]))
        return any(f"{place}/".startswith(homes) for place in places)


def make(folder: Path, system: bool, user: str = "", name: str = NAME) -> Plan:
    """Plan the service of a folder, with the settings in its `.env`.

    Args:
        folder: where it will be started.
        system: whether it is the machine's service.
        user: as whom it runs; empty: as the folder's owner, or whoever asks.
        name: what the machine calls it.

    Raises:
        StartError: there is no such folder, or a name cannot be written down.
        SettingsError: a setting there is not allowed.
    """
    folder = folder.expanduser().absolute()
    if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,60}", name):
        raise StartError(f"{name!r} cannot be the name of a service: letters, digits and - only.")
    if not folder.is_dir():
        raise StartError(f"There is no folder {folder}: make it, with your .env in it.")
    # The variables of whoever installs it are not there when it is started.
    with contextlib.chdir(folder):
        settings = Settings.load({}, Path(".env"))
    models, logs, keys = (
        _place(settings, name, folder) for name in ("models_dir", "log_dir", "keys_file")
    )
    writes = [models, logs, keys.parent]
    outside = dict.fromkeys(each for each in writes if not each.is_relative_to(folder))
    made = Plan(
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
    for text in (*made.command, *map(str, (folder, *made.writes)), made.user):
        if any(character < " " or character in '"\\' for character in text):
            raise StartError(f"{text!r} has characters that no service file can hold.")
    return made


def _place(settings: Settings, name: str, folder: Path) -> Path:
    """Where something lies for a service that is started in this folder."""
    place: Path = getattr(settings, name)
    # The defaults are those of the folder in which somebody asks for the service.
    found = place if name in settings.model_fields_set else folder / place.name
    # `../models` is not below the folder, though it is written so.
    return Path(os.path.normpath(found))


def _program() -> tuple[str, ...]:
    """The command of this environment; a checkout may not have it installed."""
    script = Path(sys.executable).with_name(NAME)
    return (str(script),) if script.exists() else (sys.executable, "-m", "vllm_obtain")


def _owner(folder: Path) -> str:
    try:
        return folder.owner()
    except (KeyError, OSError):
        return str(folder.stat().st_uid)
