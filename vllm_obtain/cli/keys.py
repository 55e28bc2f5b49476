"""`vllm-obtain keys`: create, list and revoke API keys, also while the service runs."""

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

from vllm_obtain.access import api_key as keys
from vllm_obtain.access import key_store
from vllm_obtain.access.api_key import ApiKey
from vllm_obtain.access.key_store import KeyFileError
from vllm_obtain.config.settings import load_settings
from vllm_obtain.errors import SettingsError

app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)

_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Scope(StrEnum):
    """Permissions of an API key."""

    INFERENCE = "inference"
    ADMIN = "admin"


RequestLimit = Annotated[
    int | None,
    typer.Option(min=0, help="Rate limit of this key; 0: no limit (default: REQUESTS_PER_MINUTE)."),
]
TokenLimit = Annotated[
    int | None,
    typer.Option(min=0, help="Rate limit of this key; 0: no limit (default: TOKENS_PER_MINUTE)."),
]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Label of the key.")] = "",
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="Scope of the key; repeat for several. admin includes inference."),
    ] = None,
    expires: Annotated[
        str, typer.Option(help="Lifetime, such as 12h, 30d or 8w (default: no expiry).")
    ] = "",
    requests_per_minute: RequestLimit = None,
    tokens_per_minute: TokenLimit = None,
) -> None:
    """Create a key and print it once. Only its hash is stored."""
    token, key = keys.new(
        [permission.value for permission in dict.fromkeys(scope or [Scope.INFERENCE])],
        name=name,
        expires=_expiry(expires),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    with _exit_on_error():
        path = load_settings().keys_file
        key_store.change(path, lambda stored: [*stored, key])
    # Standard output has the key alone, for pipes.
    typer.echo(f"Created key {key.id} ({', '.join(key.scopes)}); its hash is in {path}:", err=True)
    typer.echo(token)
    typer.echo(
        "Copy it now; it is not shown again. A running service accepts it within a second.",
        err=True,
    )


@app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the stored keys. Keys in API_KEYS are not shown."""
    with _exit_on_error():
        stored = key_store.read(load_settings().keys_file)
    if as_json:
        rows = [_json_row(key) for key in stored]
        typer.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return
    table = Table("id", "name", "scopes", "created", "expires", "limits per minute")
    for key in stored:
        table.add_row(
            key.id,
            key.name,
            ", ".join(key.scopes),
            _date(key.created),
            f"{_date(key.expires)}{' (expired)' if key.is_expired else ''}",
            _limits(key),
        )
    empty = "No stored keys. Create one with `vllm-obtain keys create`."
    Console(highlight=False).print(table if stored else empty)


@app.command()
def revoke(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Key ids as shown by `keys list`.")
    ],
) -> None:
    """Revoke keys. A running service rejects them within a second."""

    def remove(stored: list[ApiKey]) -> list[ApiKey]:
        if unknown := set(ids) - {key.id for key in stored}:
            known = ", ".join(key.id for key in stored) or "none"
            sys.exit(f"Unknown key id {', '.join(sorted(unknown))}. Stored keys: {known}.")
        return [key for key in stored if key.id not in ids]

    with _exit_on_error():
        path = load_settings().keys_file
        key_store.change(path, remove)
        remaining = key_store.read(path)
    typer.echo(f"Revoked: {', '.join(ids)}.")
    if not remaining:
        typer.echo(
            "No stored key is left, so all requests are rejected until you create one. To serve "
            f"local requests without a key again, remove {path} and restart the service.",
            err=True,
        )


@contextmanager
def _exit_on_error() -> Iterator[None]:
    try:
        yield
    except (SettingsError, KeyFileError) as error:
        sys.exit(str(error))


def _expiry(expires: str) -> int | None:
    if not expires:
        return None
    match = re.fullmatch(r"(\d{1,6})([mhdw])", expires.strip())
    if match is None or not int(match[1]):
        raise typer.BadParameter(
            "must be a number and a unit, such as 12h, 30d or 8w", param_hint="--expires"
        )
    return int(time.time()) + int(match[1]) * _SECONDS[match[2]]


def _json_row(key: ApiKey) -> dict[str, Any]:
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


def _limits(key: ApiKey) -> str:
    limits = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
    return ", ".join(
        f"{value or 'unlimited'} {unit}" for unit, value in limits.items() if value is not None
    )
