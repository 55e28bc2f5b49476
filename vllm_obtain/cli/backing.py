"""`vllm-obtain backup` and `restore`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vllm_obtain.cli.client import AsJson, fail, show_json

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Of the backup, on another disk.")]
Models = Annotated[bool, typer.Option(help="The models too.")]
Logs = Annotated[bool, typer.Option(help="The logs too.")]
_DOTENV = Path(".env")


def backup(
    folder: Folder, models: Models = True, logs: Logs = True, as_json: AsJson = False
) -> None:
    """Keep settings, keys, names, models and logs; what is kept already is not copied again."""
    from vllm_obtain.backup import keeping
    from vllm_obtain.backup.places import places
    from vllm_obtain.errors import SettingsError, StartError
    from vllm_obtain.settings import load_settings

    try:
        found = places(load_settings(), _DOTENV, models, logs)
        with _progress(as_json) as heard:
            done = keeping.backup(found, folder.absolute(), heard)
    except (SettingsError, StartError) as error:
        raise fail(error) from None
    _tell(done, f"{folder} has {done.files} files; {{}} copied now.", as_json)


def restore(
    folder: Folder,
    models: Models = True,
    logs: Annotated[bool, typer.Option(help="The logs too.")] = False,
    force: Annotated[bool, typer.Option(help="Set aside files here that differ.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put back what a backup has and is missing here; the service must not run."""
    from vllm_obtain.backup import keeping
    from vllm_obtain.backup.places import places
    from vllm_obtain.errors import SettingsError, StartError
    from vllm_obtain.settings import load_settings
    from vllm_obtain.supervisor import runtime

    try:
        settings = load_settings()
        if (pid := runtime.service(settings.port)) is not None:
            raise fail(f"The service runs (pid {pid}). Stop it first: vllm-obtain stop.")
        with _progress(as_json) as heard:
            # A backup without the models has a place that one with them has not.
            found = [
                *places(settings, _DOTENV, models, logs),
                *places(settings, _DOTENV, False, False),
            ]
            done = keeping.restore(found, folder.absolute(), force, heard)
    except (SettingsError, StartError) as error:
        raise fail(error) from None
    _tell(done, f"{done.files} files of {folder}; {{}} put back.", as_json)


def _tell(done: object, text: str, as_json: bool) -> None:
    from vllm_obtain.backup.keeping import Outcome

    assert isinstance(done, Outcome)  # noqa: S101 - for the type alone
    if as_json:
        show_json({name: getattr(done, name) for name in done.__struct_fields__})
        return
    for each in done.skipped:
        typer.echo(f"left out: {each}", err=True)
    typer.echo(text.format(f"{done.copied} ({done.bytes / 1e6:,.1f} MB)"))


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """Show what is copied, where somebody looks."""
    if quiet or not sys.stderr.isatty():
        yield lambda _, __: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda name, count: bar.update(task, description=name[-60:], advance=count)
