"""HTTP client for a running service, local or remote."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import typer

Url = Annotated[
    str,
    typer.Option(
        "--url", help="URL of the service (default: the service on this machine).", metavar="URL"
    ),
]
ApiKey = Annotated[
    str,
    typer.Option(
        "--key",
        help="API key (default: VLLM_OBTAIN_KEY, then the first of API_KEYS).",
        metavar="KEY",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_TIMEOUT = 900.0


class ApiError(Exception):
    """The service returned an error or cannot be reached. The message is for the user."""


class Service:
    """A running service.

    Args:
        url: base URL; empty selects the service that the local settings describe.
        key: API key; empty selects VLLM_OBTAIN_KEY, then the first key of the local settings.
    """

    def __init__(self, url: str = "", key: str = "") -> None:
        key = key or os.environ.get("VLLM_OBTAIN_KEY", "")
        if not url:
            from vllm_obtain.config.settings import load_settings

            settings = load_settings()
            scheme = "https" if settings.tls_certfile else "http"
            host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
            url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
            url += settings.url_prefix
            key = key or next(iter(settings.tokens), "")
        self.url = url.rstrip("/")
        self.key = key

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the JSON of the response.

        Raises:
            ApiError: the service returned an error or cannot be reached.
        """
        with self._send(method, path, body) as response:
            return json.loads(response.read())

    def events(self, path: str, body: Any) -> Iterator[Any]:
        """Request a stream and yield its events.

        Raises:
            ApiError: the service returned an error or cannot be reached.
        """
        with self._send("POST", path, body) as response:
            for line in response:
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield json.loads(line[6:])

    def _send(self, method: str, path: str, body: Any) -> http.client.HTTPResponse:
        parts = urlsplit(self.url)
        connection_class = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        connection = connection_class(parts.hostname or "", parts.port, timeout=_TIMEOUT)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, parts.path + path, data, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(
                f"Cannot reach {self.url} ({error}). Start the service with `vllm-obtain serve`, "
                "or set the URL of another with --url."
            ) from error
        if response.status >= 400:
            hint = " Set it with --key or VLLM_OBTAIN_KEY." if response.status == 401 else ""
            raise ApiError(_error_message(response) + hint)
        return response


def quote_name(name: str) -> str:
    """Percent-encode a model name for use in a URL path."""
    return quote(name, safe="/")


def _error_message(response: http.client.HTTPResponse) -> str:
    text = response.read().decode(errors="replace")
    try:
        body = json.loads(text)
        return str(body["error"]["message"] if "error" in body else body["reason"])
    except (ValueError, KeyError, TypeError):
        return f"The service returned status {response.status} without an error message."


def fail(error: object) -> typer.Exit:
    """Print an error to standard error.

    Returns:
        An exception that ends the command with exit code 1; raise it.
    """
    print(error, file=sys.stderr)
    return typer.Exit(1)


def show_json(value: Any) -> None:
    """Print a value as indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
