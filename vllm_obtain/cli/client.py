"""Asking a running service over HTTP, this machine's or another."""

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
        "--url", help="The service's address; else the one on this machine.", metavar="URL"
    ),
]
ApiKey = Annotated[
    str,
    typer.Option(
        "--key", help="An API key; else VLLM_OBTAIN_KEY, or the first of API_KEYS.", metavar="KEY"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_TIMEOUT = 900.0


class Refused(Exception):
    """The service answers with an error, or not at all; the message is for the user."""


class Service:
    """A running service.

    Args:
        url: its address, empty for the one that the settings here are for.
        key: an API key, empty for one of this machine's.
    """

    def __init__(self, url: str = "", key: str = "") -> None:
        key = key or os.environ.get("VLLM_OBTAIN_KEY", "")
        if not url:
            from vllm_obtain.settings import load_settings

            settings = load_settings()
            scheme = "https" if settings.tls_certfile else "http"
            host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
            url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
            url += settings.url_prefix
            key = key or next(iter(settings.tokens), "")
        self.url = url.rstrip("/")
        self.key = key

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask, and read the answer's JSON.

        Raises:
            Refused: the service says no, or nothing.
        """
        with self._answer(method, path, body) as answer:
            return json.loads(answer.read())

    def events(self, path: str, body: Any) -> Iterator[Any]:
        """Ask for a stream, and read its events up to the last.

        Raises:
            Refused: the service says no, or breaks off.
        """
        with self._answer("POST", path, body) as answer:
            for line in answer:
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield json.loads(line[6:])

    def _answer(self, method: str, path: str, body: Any) -> http.client.HTTPResponse:
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, parts.path + path, data, headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise Refused(
                f"{self.url} does not answer ({error}). Start the service (`vllm-obtain serve`), "
                "or name another with --url."
            ) from error
        if answer.status >= 400:
            hint = " Here that is --key, or VLLM_OBTAIN_KEY." if answer.status == 401 else ""
            raise Refused(_why(answer) + hint)
        return answer


def quoted(name: str) -> str:
    """A model's name as part of a path."""
    return quote(name, safe="/")


def _why(answer: http.client.HTTPResponse) -> str:
    text = answer.read().decode(errors="replace")
    try:
        found = json.loads(text)
        return str(found["error"]["message"] if "error" in found else found["reason"])
    except (ValueError, KeyError, TypeError):
        return f"The service answers {answer.status}."


def fail(error: object) -> typer.Exit:
    """Print one sentence to the standard error, and end with 1 when it is raised."""
    print(error, file=sys.stderr)
    return typer.Exit(1)


def show_json(value: Any) -> None:
    """Print a value for programs."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
