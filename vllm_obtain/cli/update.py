"""`update`: compare downloaded models with their sources and update them, locally or remotely."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from vllm_obtain.cli.api_client import ApiError, Service, fail, show_json
from vllm_obtain.cli.pull import ProgressDisplay, to_progress
from vllm_obtain.config.settings import Settings, load_settings
from vllm_obtain.control import runtime_dir
from vllm_obtain.control.client import ControlConnection
from vllm_obtain.control.messages import DownloadState, StartDownload, WaitForDownload
from vllm_obtain.download import update
from vllm_obtain.download.update import CURRENT
from vllm_obtain.download.update_check import ModelChange, check_updates
from vllm_obtain.errors import ServiceError, SettingsError

# Exit code of --check when updates are available and every source could be reached.
UPDATES_AVAILABLE = 10
_POLL_SECONDS = 5.0
_CANCELLED = "The task was cancelled."


class LocalModels:
    """The models of this machine. If a service runs here, it performs the update.

    Args:
        settings: settings of this machine.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def check_updates(self, names: Sequence[str]) -> list[ModelChange]:
        """Compare models with their sources."""
        return check_updates(self._settings, names)

    def run(self, task: StartDownload) -> str:
        """Update a model or roll it back.

        Returns:
            Detail text, such as that the model was already current; empty for none.

        Raises:
            ServiceError: the task failed.
            ApiError: the service could not complete the task.
        """
        with ProgressDisplay() as display:
            try:
                connection = self._connect()
            except OSError:  # no service runs, so the model is not in use
                try:
                    return self._run_directly(task, display)
                except _ServiceStarted as event:
                    connection = event.connection
            with connection:
                return _run_by_service(connection, task, display)

    def _connect(self) -> ControlConnection:
        return ControlConnection(runtime_dir.folder(self._settings.port) / runtime_dir.CONTROL)

    def _require_no_service(self) -> None:
        # A service that started during the download may load a mix of both versions.
        with contextlib.suppress(OSError):
            raise _ServiceStarted(self._connect())

    def _run_directly(self, task: StartDownload, display: ProgressDisplay) -> str:
        if task.task == "rollback":
            update.rollback(task.model, self._settings)
        elif not update.update(
            task.model, self._settings, display.show, task.keep, self._require_no_service
        ):
            return CURRENT
        return ""


class _ServiceStarted(Exception):
    """A service started during the download and has to install the files itself."""

    def __init__(self, connection: ControlConnection) -> None:
        self.connection = connection


class RemoteModels:
    """The models of a remote service.

    Args:
        service: client of the service.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def check_updates(self, names: Sequence[str]) -> list[ModelChange]:
        """Compare models with their sources."""
        queries = [f"?model={quote(name, safe='')}" for name in names] or [""]
        responses = [
            self._service.request("GET", f"/v1/models/updates{query}") for query in queries
        ]
        return [
            msgspec.convert(change, ModelChange)
            for response in responses
            for change in response["data"]
        ]

    def run(self, task: StartDownload) -> str:
        """Update a model or roll it back, as `LocalModels.run`."""
        body: dict[str, Any] = {"model": task.model}
        if task.task == "update":
            body["keep"] = task.keep
        last: dict[str, Any] = {}
        with ProgressDisplay() as display:
            for last in self._service.events(f"/v1/models/{task.task}", body):
                display.show(to_progress(last))
        if last.get("status") != "success":
            raise ApiError(last.get("error", {}).get("message") or _CANCELLED)
        return str(last.get("detail", ""))


def _run_by_service(
    connection: ControlConnection, task: StartDownload, display: ProgressDisplay
) -> str:
    state = connection.request(task, DownloadState, 30)
    while not state.is_over:
        display.show(to_progress(msgspec.to_builtins(state)))
        state = connection.request(
            WaitForDownload(state.id, state.version, _POLL_SECONDS),
            DownloadState,
            _POLL_SECONDS + 30,
        )
    if state.status != "success":
        raise ApiError(state.error or _CANCELLED)
    return state.detail


def run(
    models: LocalModels | RemoteModels,
    names: Sequence[str],
    check: bool,
    keep: bool,
    as_json: bool,
) -> int:
    """Compare models with their sources, print the changes and apply them.

    Args:
        models: local or remote models.
        names: model names; empty for all downloaded models.
        check: whether to print the changes only.
        keep: whether to keep the previous versions.
        as_json: whether to print JSON.

    Returns:
        The exit code.
    """
    changes = models.check_updates(names)
    if check or not as_json:
        show(changes, as_json)
    failed = any(change.state == "failed" for change in changes)
    due = [change for change in changes if change.state == "update"]
    if check:
        return 1 if failed else UPDATES_AVAILABLE if due else 0
    results = [_update(models, change, keep, as_json) for change in due]
    if as_json:
        rest = [change for change in changes if change not in due]
        show_json([*results, *map(msgspec.to_builtins, rest)])
    return 1 if failed or any(result["state"] == "failed" for result in results) else 0


def _update(
    models: LocalModels | RemoteModels, change: ModelChange, keep: bool, as_json: bool
) -> dict[str, Any]:
    """Update one model. An error is printed, so that the other models are updated as well."""
    row: dict[str, Any] = msgspec.to_builtins(change)
    try:
        models.run(StartDownload(change.name, task="update", keep=keep))
    except (ServiceError, ApiError) as error:
        print(f"{change.name}: {error}", file=sys.stderr)
        return {**row, "state": "failed", "error": str(error)}
    if not as_json:
        typer.echo(f"Updated {change.name} to {_short(change.there)}.")
    return {**row, "state": "updated"}


def show(changes: Sequence[ModelChange], as_json: bool) -> None:
    """Print the available changes."""
    if as_json:
        show_json(msgspec.to_builtins(list(changes)))
        return
    out = Console(highlight=False)
    if not changes:
        out.print("No model was downloaded with `pull`.")
        return
    table = Table(
        *(Column("name", no_wrap=True), "state", "installed", "available", "files"),
        Column("download", justify="right"),
    )
    for change in changes:
        table.add_row(
            *(change.name, change.state, _short(change.here), _short(change.there)),
            *(_files(change), _size(change)),
        )
    out.print(table)
    for change in changes:
        if change.error:
            out.print(f"{change.name}: {change.error}", markup=False, soft_wrap=True)


def _files(change: ModelChange) -> str:
    counts: dict[str, int] = {}
    for file in change.files:
        counts[file.change] = counts.get(file.change, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _size(change: ModelChange) -> str:
    if change.state != "update":
        return ""
    if change.download is None:
        return "unknown"
    size = change.download
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _short(revision: str) -> str:
    """Shorten a commit or checksum for display."""
    plain = revision.strip('"')
    return plain[:12] if len(plain) >= 40 else plain[:40]


def main(
    names: Sequence[str],
    check: bool,
    rollback: str,
    keep: bool,
    as_json: bool,
    service: Callable[[], Service] | None,
) -> typer.Exit:
    """Run the `update` command.

    Args:
        names: model names; empty for all downloaded models.
        check: whether to print the available updates only.
        rollback: model to roll back; empty to update.
        keep: whether to keep the previous versions.
        as_json: whether to print JSON.
        service: creates the client of a remote service; None for this machine.

    Returns:
        The exit of the command, to be raised.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        models = RemoteModels(service()) if service is not None else LocalModels(load_settings())
        if not rollback:
            return typer.Exit(run(models, names, check, keep, as_json))
        models.run(StartDownload(rollback, task="rollback"))
        if not as_json:
            typer.echo(f"Rolled back {rollback}. Run the same command again to undo this.")
    except (ServiceError, SettingsError, ApiError, OSError) as error:
        return fail(error)
    except KeyboardInterrupt:
        print(
            "Interrupted. The models are unchanged; run the same command again to resume.",
            file=sys.stderr,
        )
        return typer.Exit(130)
    return typer.Exit(0)
