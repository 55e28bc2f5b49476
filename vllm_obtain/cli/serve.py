"""Commands for the service itself: serve, stop, upgrade, doctor, version."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

# Seconds to shut down after the last request.
STOP_SECONDS = 10.0


class Mode(StrEnum):
    """Development or production server."""

    DEV = "dev"
    PROD = "prod"


def serve(
    mode: Annotated[
        Mode, typer.Option(help="prod: gunicorn; dev: Flask's server, reloads on code changes.")
    ] = Mode.PROD,
    fetch: Annotated[
        bool, typer.Option(help="Download a small model if MODELS_DIR is empty.")
    ] = True,
) -> None:
    """Start the service. Settings are read from the environment and .env."""
    from vllm_obtain.server.launch import launch

    launch("dev" if mode is Mode.DEV else "prod", fetch)


def stop(
    now: Annotated[bool, typer.Option("--now", help="Do not wait for in-flight requests.")] = False,
) -> None:
    """Stop the service on PORT. In-flight requests may finish within GRACE_PERIOD."""
    from vllm_obtain.config.settings import load_settings
    from vllm_obtain.errors import SettingsError
    from vllm_obtain.server.draining import stop_service

    try:
        settings = load_settings()
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    patience = STOP_SECONDS + (0 if now else settings.grace_period)
    raise typer.Exit(0 if stop_service(settings.port, now, typer.echo, patience) else 1)


def upgrade() -> None:
    """Replace the running service on PORT with the installed version without downtime.

    HOST and PORT stay the same; all other settings are read again. If the new version does not
    become ready, the old one keeps serving.
    """
    from vllm_obtain.config.settings import load_settings
    from vllm_obtain.errors import SettingsError
    from vllm_obtain.server.upgrade import status_file

    try:
        port = load_settings().port
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    raise typer.Exit(0 if status_file.upgrade(port, typer.echo) else 1)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the hardware, engines, models and settings. Exits 0 if a model can be served."""
    import json
    import os
    from dataclasses import asdict
    from pathlib import Path

    from rich.console import Console

    from vllm_obtain.doctor.report import collect
    from vllm_obtain.doctor.table import show

    out = Console(highlight=False)
    with Console(stderr=True).status("Checking the engines…"):
        report = collect(os.environ, Path(".env"))
    if as_json:
        typer.echo(json.dumps({"ok": report.ok, **asdict(report)}, indent=2))
    else:
        show(report, out)
    raise typer.Exit(0 if report.ok else 1)


def version() -> None:
    """Print the version."""
    from vllm_obtain import __version__

    typer.echo(__version__)
