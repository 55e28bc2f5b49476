"""The `vllm-obtain` command."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from vllm_obtain import __version__
from vllm_obtain.launch import launch

app = typer.Typer(
    help="One OpenAI-compatible service over your own models.",
    no_args_is_help=True,
    add_completion=False,
)


class Mode(StrEnum):
    """How to serve."""

    DEV = "dev"
    PROD = "prod"


@app.command()
def serve(
    mode: Annotated[
        Mode, typer.Option(help="dev reloads on change; prod is gunicorn.")
    ] = Mode.PROD,
    fetch: Annotated[bool, typer.Option(help="Fetch a small model when there is none.")] = True,
) -> None:
    """Start the service; settings come from the environment and .env."""
    launch("dev" if mode is Mode.DEV else "prod", fetch)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
