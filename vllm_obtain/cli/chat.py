"""`vllm-obtain run`: chat with a model in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from vllm_obtain.cli import completion
from vllm_obtain.cli.api_client import ApiError, ApiKey, Service, Url, fail

_CHAT = "/v1/chat/completions"
_EXIT = ("/bye", "/exit", "/quit")
_NEW = "/new"
_HELP = "Ctrl-C stops the response, /new starts a new conversation, /bye or Ctrl-D exits."

Model = Annotated[
    str,
    typer.Argument(
        metavar="[NAME]",
        help="Model name as shown by `list` (default: the default model).",
        autocompletion=completion.local_models,
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PROMPT]…", help="Prompt for a single response; omit it to chat interactively."
    ),
]


def run(
    name: Model = "",
    prompt: Prompt = None,
    system: Annotated[str, typer.Option(help="System prompt.")] = "",
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum tokens per response.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="Sampling temperature (0 = greedy).")
    ] = None,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """Chat with a model, or get a single response to a prompt. Responses are streamed."""
    from vllm_obtain.errors import SettingsError

    options = {"model": name, "max_tokens": max_tokens, "temperature": temperature}
    fields = {field: value for field, value in options.items() if value not in (None, "")}
    try:
        conversation = Conversation(Service(url, key), fields, system)
        if prompt:
            conversation.send(" ".join(prompt))
        elif not sys.stdin.isatty():
            conversation.send(sys.stdin.read())
        else:
            _chat(conversation)
    except (ApiError, SettingsError) as error:
        raise fail(error) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


class Conversation:
    """A chat and its message history.

    Args:
        service: the service that generates the responses.
        fields: fields of each request body.
        system: system prompt; empty for none.
    """

    def __init__(self, service: Service, fields: dict[str, Any], system: str) -> None:
        self._service = service
        self._fields = fields
        self._system = [{"role": "system", "content": system}] if system else []
        self._history: list[dict[str, str]] = []

    def reset(self) -> None:
        """Delete the message history."""
        self._history.clear()

    def send(self, text: str) -> None:
        """Send a user message and write the response to standard output as it streams.

        Raises:
            ApiError: the service returned an error or cannot be reached.
            KeyboardInterrupt: the user stopped the response. Its text so far stays in the history.
        """
        message = {"role": "user", "content": text}
        messages = [*self._system, *self._history, message]
        body = {**self._fields, "messages": messages, "stream": True}
        response: list[str] = []
        try:
            for chunk in self._stream(body):
                response.append(chunk)
                sys.stdout.write(chunk)
                sys.stdout.flush()
        finally:
            if response:
                sys.stdout.write("\n")
                self._history += [message, {"role": "assistant", "content": "".join(response)}]

    def _stream(self, body: dict[str, Any]) -> Iterator[str]:
        for event in self._service.events(_CHAT, body):
            if "error" in event:
                raise ApiError(event["error"]["message"])
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    yield text


def _chat(conversation: Conversation) -> None:
    typer.echo(_HELP)
    while True:
        try:
            text = input(">>> ").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if text in _EXIT:
            return
        if text == _NEW:
            conversation.reset()
        elif text:
            _send(conversation, text)


def _send(conversation: Conversation, text: str) -> None:
    try:
        conversation.send(text)
    except KeyboardInterrupt:
        typer.echo("(stopped)")
    except ApiError as error:
        typer.echo(error, err=True)
