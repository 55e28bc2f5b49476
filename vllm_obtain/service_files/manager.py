"""Installing, removing and asking after the service, with whatever manages services here."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from vllm_obtain.errors import StartError
from vllm_obtain.service_files import launchd, systemd
from vllm_obtain.service_files.plan import Plan

_SECONDS = 120


class Manager:
    """What systemd and launchd have in common.

    Args:
        plan: the service.
        told: given each thing that is done, in a sentence.
        home: of the user.
        system: the operating system's name.
    """

    def __init__(
        self,
        plan: Plan,
        told: Callable[[str], None] = lambda _: None,
        home: Path | None = None,
        system: str = "",
    ) -> None:
        self._plan = plan
        self._told = told
        self._home = home or Path.home()
        self._mac = (system or platform.system()) == "Darwin"

    @property
    def path(self) -> Path:
        """Where the file belongs."""
        if self._mac:
            return launchd.path(self._plan, self._home)
        return systemd.path(self._plan, self._home)

    @property
    def text(self) -> str:
        """What belongs into it."""
        return launchd.plist(self._plan) if self._mac else systemd.unit(self._plan)

    def install(self, start: bool) -> None:
        """Write the file, and start the service.

        Args:
            start: whether to start it, now and from now on with the machine.

        Raises:
            StartError: it may not be written here, or what manages services refuses.
        """
        self._require_ours()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._mac:
                (self._plan.folder / "logs").mkdir(exist_ok=True)
            self.path.write_text(self.text)
        except OSError as error:
            raise self._not_allowed(error) from error
        self._told(f"Wrote {self.path}.")
        if not start:
            return
        if self._mac:
            # One that is there already would be kept as it is.
            self._run(launchd.stop(self._plan), needed=False)
            self._run(launchd.start(self._plan, self._home))
        else:
            self._run(systemd.start(self._plan))
        self._told("It runs, and starts with " + self._when())

    def uninstall(self) -> None:
        """End the service and remove the file.

        Raises:
            StartError: there is none, it is somebody else's, or it may not be removed.
        """
        if not self.path.exists():
            raise StartError(f"Nothing is installed: there is no {self.path}.")
        self._require_ours()
        stop = launchd.stop(self._plan) if self._mac else systemd.stop(self._plan)
        # One that does not run is no reason to stay.
        self._run(stop, needed=False)
        try:
            self.path.unlink()
        except OSError as error:
            raise self._not_allowed(error) from error
        if not self._mac:
            self._run(systemd.after(self._plan), needed=False)
        self._told(f"Removed {self.path}. Models, settings and logs are where they were.")

    def status(self) -> dict[str, str]:
        """Say how the service is: `installed`, `state` and what else is known.

        Raises:
            StartError: nothing manages services here.
        """
        if not self.path.exists():
            return {"installed": "no", "state": "inactive"}
        command = launchd.state(self._plan) if self._mac else systemd.state(self._plan)
        done = self._call(command)
        read = launchd.understood if self._mac else systemd.understood
        return {"installed": str(self.path), **read(done.stdout)}

    def _run(self, commands: list[list[str]], needed: bool = True) -> None:
        for command in commands:
            done = self._call(command)
            if done.returncode and needed:
                said = done.stderr.strip() or done.stdout.strip() or "it said nothing"
                raise StartError(f"`{' '.join(command)}` failed: {said}")

    def _call(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        program = shutil.which(command[0])
        if program is None:
            raise StartError(
                f"There is no {command[0]} here, so nothing manages services. In a container, "
                "start `vllm-obtain serve` itself; docs/operations.md has a Dockerfile."
            )
        try:
            return subprocess.run(
                [program, *command[1:]], capture_output=True, text=True, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise StartError(
                f"`{' '.join(command)}` did not end within {_SECONDS} s; its log says more."
            ) from None

    def _require_ours(self) -> None:
        try:
            known = self.path.read_text()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._not_allowed(error) from error
        if launchd.MARK not in known and systemd.MARK not in known:
            raise StartError(
                f"{self.path} was not written by this command. Move it away and try again."
            )

    def _not_allowed(self, error: OSError) -> StartError:
        hint = ""
        if self._plan.system and os.getuid() != 0:
            hint = " It takes root: use sudo, or --user for a service of your own."
        return StartError(f"{error.filename}: {error.strerror}.{hint}")

    def _when(self) -> str:
        if self._plan.system:
            return "the machine."
        if self._mac:
            return "your login; --system is for a machine where nobody logs in."
        return "your login; `loginctl enable-linger` makes that the machine's start."
