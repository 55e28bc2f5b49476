"""`vllm-obtain keys`: making, listing and revoking API keys, also while the service runs."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from vllm_obtain.access import key as keys
from vllm_obtain.access import key_file
from vllm_obtain.access.key import Key
from vllm_obtain.access.key_file import KeyFileError
from vllm_obtain.errors import SettingsError
from vllm_obtain.settings import load_settings

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Scope(StrEnum):
    """What a key is for."""

    INFERENCE = "inference"
    ADMIN = "admin"


Limit = Annotated[int | None, typer.Option(min=0, help="0: no limit; else that of the settings.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Your own word for it.")] = "",
    scope: Annotated[
        list[Scope] | None, typer.Option(help="Several are allowed; admin may do everything.")
    ] = None,
    expires: Annotated[str, typer.Option(help="Such as 12h, 30d or 8w; empty: never.")] = "",
    requests_per_minute: Limit = None,
    tokens_per_minute: Limit = None,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    token, made = keys.new(
        [each.value for each in dict.fromkeys(scope or [Scope.INFERENCE])],
        name=name,
        expires=_moment(expires),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    with _problems():
        path = load_settings().keys_file
        key_file.change(path, lambda known: [*known, made])
    # What is piped is the key alone.
    typer.echo(f"Key {made.id} ({', '.join(made.scopes)}), kept as a hash in {path}:", err=True)
    typer.echo(token)
    typer.echo("It is not shown again. A running service knows it within a second.", err=True)


@app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List the keys; those in API_KEYS are not among them."""
    with _problems():
        found = key_file.read(load_settings().keys_file)
    if as_json:
        shown = [_told(key) for key in found]
        typer.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
        return
    table = Table("id", "name", "scopes", "created", "expires", "per minute")
    for key in found:
        table.add_row(
            key.id,
            key.name,
            ", ".join(key.scopes),
            _date(key.created),
            f"{_date(key.expires)}{' (over)' if key.is_expired else ''}",
            _limits(key),
        )
    Console(highlight=False).print(table if found else "There are no keys.")


@app.command()
def revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="As `keys list` shows them.")],
) -> None:
    """Revoke keys: a running service refuses them within a second."""

    def without(known: list[Key]) -> list[Key]:
        if missing := set(ids) - {key.id for key in known}:
            have = ", ".join(key.id for key in known) or "none"
            sys.exit(f"There is no key {', '.join(sorted(missing))}. Keys: {have}.")
        return [key for key in known if key.id not in ids]

    with _problems():
        path = load_settings().keys_file
        key_file.change(path, without)
        left = key_file.read(path)
    typer.echo(f"Revoked: {', '.join(ids)}.")
    if not left:
        typer.echo(
            "No key is left in the file: nobody gets in until you make one. To serve this machine "
            f"without keys again, remove {path} and start the service anew.",
            err=True,
        )


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except (SettingsError, KeyFileError) as error:
        sys.exit(str(error))


def _moment(expires: str) -> int | None:
    if not expires:
        return None
    found = re.fullmatch(r"(\d{1,6})([mhdw])", expires.strip())
    if found is None or not int(found[1]):
        raise typer.BadParameter("write it as 12h, 30d or 8w", param_hint="--expires")
    return int(time.time()) + int(found[1]) * _SECONDS[found[2]]


def _told(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "created": key.created,
        "expires": key.expires,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
    }


def _date(moment: int | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment)) if moment else "never"


def _limits(key: Key) -> str:
    told = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
    return ", ".join(f"{value or 'any'} {of}" for of, value in told.items() if value is not None)
