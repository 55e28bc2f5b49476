"""`pull`: fetching here, or having it done elsewhere, with a bar that shows how far it is."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
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

from vllm_obtain.cli.client import Refused, Service, fail
from vllm_obtain.errors import ServiceError, SettingsError
from vllm_obtain.fetching.fetch import Request, fetch
from vllm_obtain.fetching.progress import Progress, line
from vllm_obtain.settings import load_settings

_WORDS = {
    "looking": "looking for it",
    "waiting": "another process fetches it",
    "downloading": "downloading",
    "checking": "checking",
    "loading": "loading beside the old version",
}


def here(model: str, name: str, form: str, force: bool, as_json: bool) -> None:
    """Fetch a model on this machine; arguments as those of the command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Screen(as_json) as screen:
            folder = fetch(Request(model, name, form, force), load_settings(), screen.show)
            done = Progress("done", folder.name, path=str(folder))
            if as_json:
                screen.show(done)
    except (ServiceError, SettingsError) as error:
        raise fail(error) from None
    except KeyboardInterrupt:
        print("What has arrived is kept: the same command goes on with it.", file=sys.stderr)
        raise typer.Exit(130) from None
    if not as_json:
        typer.echo(f"{folder.name} is here: {folder}")


def there(service: Service, model: str, name: str, form: str, force: bool, as_json: bool) -> None:
    """Have a service fetch a model; arguments as those of the command."""
    body = {"model": model, "name": name, "format": form, "force": force}
    last: dict[str, Any] = {}
    try:
        with Screen(as_json) as screen:
            for last in _events(service, body):
                screen.show(shown(last))
    except Refused as error:
        raise fail(error) from None
    except KeyboardInterrupt:
        print("The service goes on with it; the same command joins it again.", file=sys.stderr)
        raise typer.Exit(130) from None
    if last.get("status") != "success":
        raise fail(last.get("error", {}).get("message") or "It was called off.")
    if not as_json:
        typer.echo(f"{last['name']} is at {service.url}.")


def _events(service: Service, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from service.events("/v1/models/pull", body)


def shown(event: dict[str, Any]) -> Progress:
    """What a service said of a pull, as it would be said here."""
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


class Screen(contextlib.AbstractContextManager["Screen"]):
    """Where progress is shown: a bar, or lines of JSON for programs.

    Args:
        as_json: which of both.
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

    def __enter__(self) -> Screen:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, said: Progress) -> None:
        """Show how far it is."""
        if self._as_json:
            typer.echo(line(said))
            return
        words = f"{said.name} {_WORDS.get(said.stage, said.stage)}".strip()
        self._bars.update(
            self._task, description=words, total=said.total or None, completed=said.done
        )
