"""Commands about a running service: status, ps, load, unload, switch. All ask it over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vllm_obtain.cli import names
from vllm_obtain.cli.client import ApiKey, AsJson, Refused, Service, Url, fail, show_json

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="As `list` shows it.", autocompletion=names.here),
]
Engine = Annotated[
    str,
    typer.Argument(
        metavar="ENGINE",
        help="llama_cpp, mlx, vllm, or auto for the best here.",
        autocompletion=names.engines,
    ),
]


def status(as_json: AsJson = False, url: Url = "", key: ApiKey = "") -> None:
    """Say how the service is; exits 0 when it would answer a request."""
    found = _ask(url, key, "GET", "/v1/system/status")
    if as_json:
        show_json(found)
    else:
        typer.echo(
            f"vllm-obtain {found['version']}, up for {found['uptime_seconds']:.0f} s, "
            f"{found['requests_in_flight']} requests in flight"
        )
        for each in found["engines"]:
            typer.echo(f"{each['model']} on {each['engine']}: {each['state']}")
    _ask(url, key, "GET", "/ready")


def ps(as_json: AsJson = False, url: Url = "", key: ApiKey = "") -> None:
    """List the models that are loaded, or on their way."""
    engines = _ask(url, key, "GET", "/v1/system/status")["engines"]
    loaded = [each for each in engines if each["state"] not in ("stopped", "failed")]
    if as_json:
        show_json(loaded)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "engine", "state", "pid", "memory", "in flight", "waiting")
    for each in loaded:
        memory = each.get("memory_bytes") or 0
        table.add_row(
            *(each["model"], each["engine"], each.get("stage") or each["state"]),
            *(str(each.get("pid") or ""), f"{memory / 1e9:.2f} GB"),
            *(str(each["in_flight"]), str(each["queue"])),
        )
    Console(highlight=False).print(table if loaded else "No model is loaded.")


def load(name: Name, url: Url = "", key: ApiKey = "") -> None:
    """Load a model, and wait until it is ready."""
    _say(_ask(url, key, "POST", "/v1/models/load", {"model_name": name}))


def unload(name: Name, url: Url = "", key: ApiKey = "") -> None:
    """Unload a model when its requests are finished."""
    _say(_ask(url, key, "POST", "/v1/models/unload", {"model_name": name}))


def switch(name: Name, engine: Engine, url: Url = "", key: ApiKey = "") -> None:
    """Move a model to another engine; requests that run are not disturbed."""
    _say(_ask(url, key, "POST", "/v1/models/load", {"model_name": name, "engine": engine}))


def _say(done: Any) -> None:
    typer.echo(f"{done['model']} on {done['engine']}: {done['state']}")


def _ask(url: str, key: str, method: str, path: str, body: Any = None) -> Any:
    from vllm_obtain.errors import SettingsError

    try:
        return Service(url, key).ask(method, path, body)
    except (Refused, SettingsError) as error:
        raise fail(error) from None
