"""Commands that call a running service over HTTP: status, ps, load, unload, switch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vllm_obtain.cli import completion
from vllm_obtain.cli.api_client import ApiError, ApiKey, AsJson, Service, Url, fail, show_json

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Model name as shown by `list`.",
        autocompletion=completion.local_models,
    ),
]
Engine = Annotated[
    str,
    typer.Argument(
        metavar="ENGINE",
        help="llama_cpp, mlx, vllm, or auto for the best engine on this machine.",
        autocompletion=completion.engines,
    ),
]


def status(as_json: AsJson = False, url: Url = "", key: ApiKey = "") -> None:
    """Show service status. Exits 0 if the service is ready."""
    report = _request(url, key, "GET", "/v1/system/status")
    if as_json:
        show_json(report)
    else:
        typer.echo(
            f"vllm-obtain {report['version']}, up for {report['uptime_seconds']:.0f} s, "
            f"{report['requests_in_flight']} requests in flight"
        )
        for engine in report["engines"]:
            _show_engine(engine)
    _request(url, key, "GET", "/ready")


def ps(as_json: AsJson = False, url: Url = "", key: ApiKey = "") -> None:
    """List loaded and loading models."""
    engines = _request(url, key, "GET", "/v1/system/status")["engines"]
    running = [engine for engine in engines if engine["state"] not in ("stopped", "failed")]
    if as_json:
        show_json(running)
        return
    from rich.console import Console
    from rich.table import Column, Table

    numbers = (Column(head, justify="right") for head in ("pid", "memory", "in flight", "queued"))
    table = Table("model", "engine", "state", *numbers)
    for engine in running:
        memory = engine.get("memory_bytes") or 0
        table.add_row(
            *(engine["model"], engine["engine"], engine.get("stage") or engine["state"]),
            *(str(engine.get("pid") or ""), f"{memory / 1e9:.2f} GB"),
            *(str(engine["in_flight"]), str(engine["queue"])),
        )
    Console(highlight=False).print(table if running else "No model is loaded.")


def load(name: Name, url: Url = "", key: ApiKey = "") -> None:
    """Load a model and wait until it is ready."""
    _show_engine(_request(url, key, "POST", "/v1/models/load", {"model_name": name}))


def unload(name: Name, url: Url = "", key: ApiKey = "") -> None:
    """Unload a model after its in-flight requests finish."""
    _show_engine(_request(url, key, "POST", "/v1/models/unload", {"model_name": name}))


def switch(name: Name, engine: Engine, url: Url = "", key: ApiKey = "") -> None:
    """Switch a model to another engine. In-flight requests finish on the old engine."""
    body = {"model_name": name, "engine": engine}
    _show_engine(_request(url, key, "POST", "/v1/models/load", body))


def _show_engine(engine: Any) -> None:
    typer.echo(f"{engine['model']} on {engine['engine']}: {engine['state']}")


def _request(url: str, key: str, method: str, path: str, body: Any = None) -> Any:
    from vllm_obtain.errors import SettingsError

    try:
        return Service(url, key).request(method, path, body)
    except (ApiError, SettingsError) as error:
        raise fail(error) from None
