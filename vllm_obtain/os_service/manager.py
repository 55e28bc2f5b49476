"""Installs, removes and inspects the service with systemd or launchd."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from vllm_obtain.errors import StartError
from vllm_obtain.os_service import launchd, systemd
from vllm_obtain.os_service.plan import ServicePlan

_TIMEOUT_SECONDS = 120


class ServiceManager:
    """Common interface to systemd and launchd.

    Args:
        plan: the service.
        report: receives messages for the user.
        home: home folder of the user.
        system: name of the operating system; empty for that of this machine.
    """

    def __init__(
        self,
        plan: ServicePlan,
        report: Callable[[str], None] = lambda _: None,
        home: Path | None = None,
        system: str = "",
    ) -> None:
        self._plan = plan
        self._report = report
        self._home = home or Path.home()
        self._mac = (system or platform.system()) == "Darwin"

    @property
    def path(self) -> Path:
        """Path of the service file."""
        if self._mac:
            return launchd.path(self._plan, self._home)
        return systemd.path(self._plan, self._home)

    @property
    def text(self) -> str:
        """Content of the service file."""
        return launchd.plist(self._plan) if self._mac else systemd.unit(self._plan)

    def install(self, start: bool) -> None:
        """Write the service file and start the service.

        Args:
            start: whether to start the service now and at boot or login.

        Raises:
            StartError: the file cannot be written, or a command failed.
        """
        self._require_ours()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._mac:
                (self._plan.folder / "logs").mkdir(exist_ok=True)
            self.path.write_text(self.text)
        except OSError as error:
            raise self._file_error(error) from error
        self._report(f"Wrote {self.path}.")
        if not start:
            return
        if self._mac:
            # launchd does not reload the file of a loaded service.
            self._run(launchd.stop(self._plan), required=False)
            self._run(launchd.start(self._plan, self._home))
        else:
            self._run(systemd.start(self._plan))
        self._report(f"Service started. It starts again {self._when()}")

    def uninstall(self) -> None:
        """Stop the service and remove the service file.

        Raises:
            StartError: the file does not exist, was not written by this command, or cannot be
                removed.
        """
        if not self.path.exists():
            raise StartError(f"The service is not installed: {self.path} does not exist.")
        self._require_ours()
        stop = launchd.stop(self._plan) if self._mac else systemd.stop(self._plan)
        # The service may be stopped already.
        self._run(stop, required=False)
        try:
            self.path.unlink()
        except OSError as error:
            raise self._file_error(error) from error
        if not self._mac:
            self._run(systemd.after(self._plan), required=False)
        self._report(f"Removed {self.path}. Models, settings and logs are kept.")

    def status(self) -> dict[str, str]:
        """Return `installed`, `state` and further details of the service.

        Raises:
            StartError: neither systemd nor launchd is available.
        """
        if not self.path.exists():
            return {"installed": "no", "state": "inactive"}
        command = launchd.state(self._plan) if self._mac else systemd.state(self._plan)
        result = self._call(command)
        parse = launchd.parse_state if self._mac else systemd.parse_state
        return {"installed": str(self.path), **parse(result.stdout)}

    def _run(self, commands: list[list[str]], required: bool = True) -> None:
        for command in commands:
            result = self._call(command)
            if result.returncode and required:
                output = result.stderr.strip() or result.stdout.strip()
                reason = output or f"exit status {result.returncode}"
                raise StartError(f"`{' '.join(command)}` failed: {reason}")

    def _call(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        program = shutil.which(command[0])
        if program is None:
            raise StartError(
                f"{command[0]} was not found, so the service cannot be managed here. In a "
                "container, run `vllm-obtain serve` directly; see docs/operations.md."
            )
        try:
            return subprocess.run(
                [program, *command[1:]], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise StartError(
                f"`{' '.join(command)}` did not finish within {_TIMEOUT_SECONDS} s. "
                "Check the system log."
            ) from None

    def _require_ours(self) -> None:
        try:
            content = self.path.read_text()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._file_error(error) from error
        if launchd.MARK not in content and systemd.MARK not in content:
            raise StartError(
                f"{self.path} was not written by this command. Move the file away and try again."
            )

    def _file_error(self, error: OSError) -> StartError:
        hint = ""
        if self._plan.system and os.getuid() != 0:
            hint = " A system service requires root: use sudo, or --user for a user service."
        return StartError(f"{error.filename}: {error.strerror}.{hint}")

    def _when(self) -> str:
        if self._plan.system:
            return "at boot."
        if self._mac:
            return "when you log in. Use --system to start it at boot."
        return "when you log in. Run `loginctl enable-linger` to start it at boot."
