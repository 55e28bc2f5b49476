"""`vllm-obtain service`: have the machine run the service."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vllm_obtain.errors import SettingsError, StartError
from vllm_obtain.service_files import plan
from vllm_obtain.service_files.manager import Manager

app = typer.Typer(help="Have systemd or launchd run the service.", no_args_is_help=True)

System = Annotated[
    bool, typer.Option("--system/--user", help="For the machine, or for you when you log in.")
]
Name = Annotated[str, typer.Option(help="Of the service; each instance has its own.")]
Folder = Annotated[
    Path, typer.Option(help="Where it is started: .env, models/ and logs/ are those there.")
]


@app.command()
def install(
    system: System = False,
    folder: Folder = Path(),
    run_as: Annotated[
        str, typer.Option(help="With --system: as whom it runs; empty: as the folder's owner.")
    ] = "",
    name: Name = plan.NAME,
    start: Annotated[bool, typer.Option(help="Start it now, and with the machine.")] = True,
    show: Annotated[bool, typer.Option("--print", help="Print the file and do nothing.")] = False,
) -> None:
    """Write the service's file and start the service."""
    with _problems():
        made = _manager(system, folder, run_as, name)
        if show:
            typer.echo(made.text, nl=False)
        else:
            made.install(start)


@app.command()
def uninstall(system: System = False, name: Name = plan.NAME) -> None:
    """End the service and remove its file; models, settings and logs stay."""
    with _problems():
        _manager(system, Path(), "", name).uninstall()


@app.command()
def status(
    system: System = False,
    name: Name = plan.NAME,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say how it is; exits 0 when it runs, 3 when it does not, 4 when it is not installed."""
    with _problems():
        found = _manager(system, Path(), "", name).status()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            if value:
                typer.echo(f"{name:10} {value}")
    if found["installed"] == "no":
        raise typer.Exit(4)
    raise typer.Exit(0 if found["state"] == "active" else 3)


def _manager(system: bool, folder: Path, run_as: str, name: str) -> Manager:
    return Manager(plan.make(folder, system, run_as, name), typer.echo)


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except (SettingsError, StartError) as error:
        sys.exit(str(error))
