"""`vllm-obtain service`: install and manage the systemd or launchd service."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vllm_obtain.errors import SettingsError, StartError
from vllm_obtain.os_service import plan
from vllm_obtain.os_service.manager import ServiceManager

app = typer.Typer(help="Manage vllm-obtain as a systemd or launchd service.", no_args_is_help=True)

System = Annotated[
    bool,
    typer.Option("--system/--user", help="System service, or service of the current user."),
]
Name = Annotated[str, typer.Option(help="Service name; must be unique on the machine.")]
Folder = Annotated[Path, typer.Option(help="Working directory with .env, models/ and logs/.")]


@app.command()
def install(
    system: System = False,
    folder: Folder = Path(),
    run_as: Annotated[
        str,
        typer.Option(help="User of a --system service (default: the owner of the folder)."),
    ] = "",
    name: Name = plan.NAME,
    start: Annotated[bool, typer.Option(help="Start now and at boot.")] = True,
    show: Annotated[
        bool, typer.Option("--print", help="Print the service file and change nothing.")
    ] = False,
) -> None:
    """Install the service file and start the service."""
    with _exit_on_error():
        manager = _manager(system, folder, run_as, name)
        if show:
            typer.echo(manager.text, nl=False)
        else:
            manager.install(start)


@app.command()
def uninstall(system: System = False, name: Name = plan.NAME) -> None:
    """Stop the service and remove its service file. Models, settings and logs are kept."""
    with _exit_on_error():
        _manager(system, Path(), "", name).uninstall()


@app.command()
def status(
    system: System = False,
    name: Name = plan.NAME,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the service state. Exits 0 if it runs, 3 if it is stopped, 4 if not installed."""
    with _exit_on_error():
        state = _manager(system, Path(), "", name).status()
    if as_json:
        typer.echo(json.dumps(state, indent=2))
    else:
        for field, value in state.items():
            if value:
                typer.echo(f"{field:10} {value}")
    if state["installed"] == "no":
        raise typer.Exit(4)
    raise typer.Exit(0 if state["state"] == "active" else 3)


def _manager(system: bool, folder: Path, run_as: str, name: str) -> ServiceManager:
    return ServiceManager(plan.make(folder, system, run_as, name), typer.echo)


@contextmanager
def _exit_on_error() -> Iterator[None]:
    try:
        yield
    except (SettingsError, StartError) as error:
        sys.exit(str(error))
