"""`vllm-obtain backup` and `restore`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vllm_obtain.cli.api_client import AsJson, fail, show_json

Models = Annotated[bool, typer.Option(help="Include models.")]
Logs = Annotated[bool, typer.Option(help="Include logs.")]
_DOTENV = Path(".env")


def backup(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Backup folder to write, preferably on another disk."
        ),
    ],
    models: Models = True,
    logs: Logs = True,
    as_json: AsJson = False,
) -> None:
    """Back up settings, API keys, models and logs. Only new and changed files are copied."""
    from vllm_obtain.backup import backup as archive
    from vllm_obtain.backup.paths import backup_paths
    from vllm_obtain.config.settings import load_settings
    from vllm_obtain.errors import SettingsError, StartError

    try:
        paths = backup_paths(load_settings(), _DOTENV, models, logs)
        with _progress(as_json) as on_progress:
            outcome = archive.backup(paths, folder.absolute(), on_progress)
    except (SettingsError, StartError) as error:
        raise fail(error) from None
    _show(outcome, f"Backup {folder}: {outcome.files} files, {{}} copied.", as_json)


def restore(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Backup folder to restore from.")
    ],
    models: Models = True,
    logs: Logs = False,
    force: Annotated[
        bool,
        typer.Option(help="Replace files that differ; the old ones become NAME.before-restore."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Restore missing files from a backup. Stop the service first."""
    from vllm_obtain.backup import backup as archive
    from vllm_obtain.backup.paths import backup_paths
    from vllm_obtain.config.settings import load_settings
    from vllm_obtain.control import runtime_dir
    from vllm_obtain.errors import SettingsError, StartError

    try:
        settings = load_settings()
        if (pid := runtime_dir.service(settings.port)) is not None:
            raise fail(
                f"The service is running (pid {pid}). Stop it with `vllm-obtain stop`, "
                "then restore again."
            )
        with _progress(as_json) as on_progress:
            # A backup without models has a path that one with models does not have.
            paths = [
                *backup_paths(settings, _DOTENV, models, logs),
                *backup_paths(settings, _DOTENV, False, False),
            ]
            outcome = archive.restore(paths, folder.absolute(), force, on_progress)
    except (SettingsError, StartError) as error:
        raise fail(error) from None
    _show(outcome, f"Backup {folder}: {outcome.files} files, {{}} restored.", as_json)


def _show(outcome: object, text: str, as_json: bool) -> None:
    from vllm_obtain.backup.backup import Outcome

    assert isinstance(outcome, Outcome)  # noqa: S101 - narrows the type
    if as_json:
        show_json({name: getattr(outcome, name) for name in outcome.__struct_fields__})
        return
    for path in outcome.skipped:
        typer.echo(f"skipped: {path}", err=True)
    typer.echo(text.format(f"{outcome.copied} ({outcome.bytes / 1e6:,.1f} MB)"))


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """Show a progress bar on an interactive terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _, __: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda name, count: bar.update(task, description=name[-60:], advance=count)
