"""Commands about the service as a whole: start, stop, doctor, version."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

# Seconds for the end itself, after the last request.
STOP_SECONDS = 10.0


class Mode(StrEnum):
    """How to serve."""

    DEV = "dev"
    PROD = "prod"


def serve(
    mode: Annotated[
        Mode, typer.Option(help="dev reloads on change; prod is gunicorn.")
    ] = Mode.PROD,
    fetch: Annotated[bool, typer.Option(help="Fetch a small model when there is none.")] = True,
) -> None:
    """Start the service; settings come from the environment and .env."""
    from vllm_obtain.launch import launch

    launch("dev" if mode is Mode.DEV else "prod", fetch)


def stop(
    now: Annotated[bool, typer.Option("--now", help="Do not wait for what runs.")] = False,
) -> None:
    """Stop the service on PORT: what runs is finished within GRACE_PERIOD."""
    from vllm_obtain.draining import stop_service
    from vllm_obtain.errors import SettingsError
    from vllm_obtain.settings import load_settings

    try:
        settings = load_settings()
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    patience = STOP_SECONDS + (0 if now else settings.grace_period)
    raise typer.Exit(0 if stop_service(settings.port, now, typer.echo, patience) else 1)


def upgrade() -> None:
    """Have the service on PORT replaced by the version that is installed now; nobody is cut off.

    It keeps its address and reads its other settings anew. If the new version does not become
    ready, the old one goes on.
    """
    from vllm_obtain.errors import SettingsError
    from vllm_obtain.settings import load_settings
    from vllm_obtain.upgrading import news

    try:
        port = load_settings().port
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    raise typer.Exit(0 if news.upgrade(port, typer.echo) else 1)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what this machine can run, and what to fix; exits 0 when a model can be served."""
    import json
    import os
    from dataclasses import asdict
    from pathlib import Path

    from rich.console import Console

    from vllm_obtain.doctor.report import collect
    from vllm_obtain.doctor.table import show

    out = Console(highlight=False)
    with Console(stderr=True).status("Looking at the engines…"):
        found = collect(os.environ, Path(".env"))
    if as_json:
        typer.echo(json.dumps({"ok": found.ok, **asdict(found)}, indent=2))
    else:
        show(found, out)
    raise typer.Exit(0 if found.ok else 1)


def version() -> None:
    """Print the version."""
    from vllm_obtain import __version__

    typer.echo(__version__)
