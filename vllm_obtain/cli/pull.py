"""`pull`: download a model locally or on a remote service, with a progress bar."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from vllm_obtain.cli.api_client import ApiError, Service, fail
from vllm_obtain.config.settings import load_settings
from vllm_obtain.download.download import PullRequest, download_model
from vllm_obtain.errors import ServiceError, SettingsError
from vllm_obtain.models.progress import Progress, line

_STAGE_LABELS = {
    "looking": "resolving the source",
    "waiting": "waiting for another process that downloads it",
    "downloading": "downloading",
    "checking": "verifying",
    "loading": "loading the new version",
}


def pull_local(model: str, name: str, model_format: str, force: bool, as_json: bool) -> None:
    """Download a model to this machine. The arguments are those of the command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with ProgressDisplay(as_json) as display:
            request = PullRequest(model, name, model_format, force)
            folder = download_model(request, load_settings(), display.show)
            if as_json:
                display.show(Progress("done", folder.name, path=str(folder)))
    except (ServiceError, SettingsError) as error:
        raise fail(error) from None
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to resume.", file=sys.stderr)
        raise typer.Exit(130) from None
    if not as_json:
        typer.echo(f"Downloaded {folder.name} to {folder}")


def pull_remote(
    service: Service, model: str, name: str, model_format: str, force: bool, as_json: bool
) -> None:
    """Download a model on a service. The other arguments are those of the command."""
    body = {"model": model, "name": name, "format": model_format, "force": force}
    last: dict[str, Any] = {}
    try:
        with ProgressDisplay(as_json) as display:
            for last in service.events("/v1/models/pull", body):
                display.show(to_progress(last))
    except ApiError as error:
        raise fail(error) from None
    except KeyboardInterrupt:
        print(
            "The service continues the download. Run the same command again to follow it.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if last.get("status") != "success":
        raise fail(last.get("error", {}).get("message") or "The download was cancelled.")
    if not as_json:
        typer.echo(f"Downloaded {last['name']} to {service.url}")


def to_progress(event: dict[str, Any]) -> Progress:
    """Convert a progress event of the service to the format of a local download."""
    stage = {"success": "done", "cancelled": "failed"}.get(event.get("status", "failed"))
    return msgspec.convert(
        {
            "stage": stage or event.get("status", "failed"),
            "name": event.get("name", ""),
            "source": event.get("source", ""),
            "done": event.get("completed", 0),
            "total": event.get("total", 0),
            "rate": float(event.get("rate", 0)),
            "left": event.get("seconds_left"),
            "detail": event.get("detail", ""),
        },
        Progress,
    )


class ProgressDisplay(contextlib.AbstractContextManager["ProgressDisplay"]):
    """Progress of a download: a bar on standard error, or JSON lines on standard output.

    Args:
        as_json: whether to print JSON lines.
    """

    def __init__(self, as_json: bool = False) -> None:
        self._as_json = as_json
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False),
            disable=as_json,
        )
        self._task = self._bars.add_task("", total=None)

    def __enter__(self) -> ProgressDisplay:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Update the display."""
        if self._as_json:
            typer.echo(line(progress))
            return
        stage = _STAGE_LABELS.get(progress.stage, progress.stage)
        self._bars.update(
            self._task,
            description=f"{progress.name} {stage}".strip(),
            total=progress.total or None,
            completed=progress.done,
        )
