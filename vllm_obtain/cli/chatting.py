"""`vllm-obtain run`: talk to a model in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from vllm_obtain.cli import names
from vllm_obtain.cli.client import ApiKey, Refused, Service, Url, fail

_CHAT = "/v1/chat/completions"
_BYE = ("/bye", "/exit", "/quit")
_ANEW = "/new"
_HELP = "Ctrl-C stops an answer, /new begins a new conversation, /bye or Ctrl-D ends."

Model = Annotated[
    str,
    typer.Argument(
        metavar="[NAME]",
        help="As `list` shows it; else the default model.",
        autocompletion=names.here,
    ),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PROMPT]…", help="One question; without it, a conversation."),
]


def run(
    name: Model = "",
    words: Words = None,
    system: Annotated[str, typer.Option(help="What the model is told first.")] = "",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of each answer.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="How freely it draws; 0: not at all.")
    ] = None,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """Talk to a model; the answer is written as it comes."""
    from vllm_obtain.errors import SettingsError

    fields = {"model": name, "max_tokens": max_tokens, "temperature": temperature}
    given = {field: value for field, value in fields.items() if value not in (None, "")}
    try:
        talk = Conversation(Service(url, key), given, system)
        if words:
            talk.ask(" ".join(words))
        elif not sys.stdin.isatty():
            talk.ask(sys.stdin.read())
        else:
            _converse(talk)
    except (Refused, SettingsError) as error:
        raise fail(error) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


class Conversation:
    """Questions and answers so far.

    Args:
        service: who is asked.
        fields: of each request.
        system: what the model is told first, empty for nothing.
    """

    def __init__(self, service: Service, fields: dict[str, Any], system: str) -> None:
        self._service = service
        self._fields = fields
        self._first = [{"role": "system", "content": system}] if system else []
        self._said: list[dict[str, str]] = []

    def anew(self) -> None:
        """Forget what was said."""
        self._said.clear()

    def ask(self, text: str) -> None:
        """Ask, and write the answer as it comes.

        Raises:
            Refused: there is none.
            KeyboardInterrupt: it was stopped; what came of it is kept.
        """
        asked = {"role": "user", "content": text}
        body = {**self._fields, "messages": [*self._first, *self._said, asked], "stream": True}
        answer: list[str] = []
        try:
            for piece in self._pieces(body):
                answer.append(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
        finally:
            if answer:
                sys.stdout.write("\n")
                self._said += [asked, {"role": "assistant", "content": "".join(answer)}]

    def _pieces(self, body: dict[str, Any]) -> Iterator[str]:
        for event in self._service.events(_CHAT, body):
            if "error" in event:
                raise Refused(event["error"]["message"])
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    yield text


def _converse(talk: Conversation) -> None:
    typer.echo(_HELP)
    while True:
        try:
            text = input(">>> ").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if text in _BYE:
            return
        if text == _ANEW:
            talk.anew()
        elif text:
            _answer(talk, text)


def _answer(talk: Conversation, text: str) -> None:
    try:
        talk.ask(text)
    except KeyboardInterrupt:
        typer.echo("(stopped)")
    except Refused as error:
        typer.echo(error, err=True)
