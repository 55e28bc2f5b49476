"""From bytes to a checked request, and from a refusal to the field that is at fault."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest

T = TypeVar("T")

_PATH = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*)`$", re.DOTALL)
_MISSING_FIELD = re.compile(r"missing required field `([^`]*)`")

# What may stand where a tagged type is told apart: msgspec names only what may not.
Tags = Sequence[tuple[re.Pattern[str], str]]
_TAGS: Tags = (
    (re.compile(r"\.role$"), "system, developer, user, assistant, tool"),
    (re.compile(r"content\[\.*\d*\]\.type$"), "text, image_url"),
    (re.compile(r"^response_format\.type$"), "text, json_object, json_schema"),
    (re.compile(r"^tool_choice\.type$"), "function, allowed_tools"),
    (re.compile(r"tools\[\.*\d*\]\.type$"), "function"),
)

# Values of a body, counted by the commas between them.
MOST_VALUES = 2_000_000

# Each is left out by a round of its own.
_MOST_IGNORED = 32

_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)


def parse_chat(body: bytes, ignored: list[str] | None = None) -> ChatRequest:
    """Read the body of POST /v1/chat/completions; arguments as `decode`.

    Raises:
        InvalidRequest: not JSON, a wrong type, a value out of range, or an unknown field.
    """
    return decode(body, _chat, ignored)


def parse_completion(body: bytes, ignored: list[str] | None = None) -> CompletionRequest:
    """Read the body of POST /v1/completions; arguments as `decode`.

    Raises:
        InvalidRequest: not JSON, a wrong type, a value out of range, or an unknown field.
    """
    request = decode(body, _completion, ignored)
    if isinstance(request.prompt, list):
        request.prompt = _one_prompt(request.prompt)
    return request


def _one_prompt(prompt: list[int | str]) -> str | list[int | str]:
    """Accept a list of token ids, or a list that holds one text."""
    if len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    if all(isinstance(token, int) for token in prompt):
        return prompt
    raise InvalidRequest(
        "Invalid 'prompt': one text or one list of token ids is answered per request; "
        "send a request for each prompt.",
        param="prompt",
    )


def decode(
    body: bytes,
    decoder: msgspec.json.Decoder[T],
    ignored: list[str] | None = None,
    tags: Tags = _TAGS,
) -> T:
    """Decode a body, turning every refusal into an InvalidRequest that names the field.

    Args:
        body: JSON.
        decoder: of the type that it has to be.
        ignored: where the names of unknown fields are put; None refuses them.
        tags: what is allowed where the types of a union are told apart, by patterns of the field;
            the first that matches is told.
    """
    _check_values(body)
    while True:
        try:
            return _decoded(body, decoder)
        except msgspec.ValidationError as error:
            refusal = _refusal(str(error), tags)
            if ignored is None or not isinstance(refusal, UnsupportedParameter):
                raise refusal from None
            if len(ignored) == _MOST_IGNORED:
                raise refusal from None
            body = _without(body, refusal)
            ignored.append(str(refusal.param))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"The body is not valid JSON: {error}."
            raise InvalidRequest(message, code="invalid_json") from None
        except RecursionError:
            raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None


def _check_values(body: bytes) -> None:
    """Refuse what takes seconds to read, in which nobody else is answered.

    Each value but the first of its list or object has a comma before it. A text has some too, but
    the longest prompts have no million.
    """
    if len(body) > MOST_VALUES and body.count(b",") > MOST_VALUES:
        raise InvalidRequest(
            f"The body has more than {MOST_VALUES:,} values. Send fewer.", code="invalid_json"
        )


def _without(body: bytes, refusal: UnsupportedParameter) -> bytes:
    """Leave out the field that a refusal names, as in `messages[0].content`.

    Raises:
        InvalidRequest: the refusal itself, if the field cannot be told by its name.
    """
    try:
        value = msgspec.json.decode(body)
        path, _, last = _parted(value, str(refusal.param))
        at = value
        for step in re.findall(r"[^.\[\]]+", path):
            at = at[int(step)] if isinstance(at, list) else at[step]
        del at[last]
        return msgspec.json.encode(value)
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError):
        raise refusal from None


def _parted(value: object, name: str) -> tuple[str, str, str]:
    """Part a name into where and what; at the top a field may have any name."""
    return ("", "", name) if isinstance(value, dict) and name in value else name.rpartition(".")


def convert(value: object, kind: type[T]) -> T:
    """Check what was decoded already, with the refusals of `decode`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), _TAGS) from None


def _decoded(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
    # Some languages write a whole number as 20.0, which is an integer to JSON Schema.
    whole = _with_integers(msgspec.json.decode(body))
    return msgspec.convert(whole, decoder.type, str_keys=True)


def _with_integers(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_with_integers(one) for one in value]
    if isinstance(value, dict):
        return {name: _with_integers(one) for name, one in value.items()}
    return value


def _refusal(text: str, tags: Tags) -> InvalidRequest:
    found = _PATH.search(text)
    path = found.group(1) if found else ""
    what = text[: found.start()] if found else text
    if unknown := _UNKNOWN_FIELD.search(what):
        name = _join(path, unknown.group(1))
        return UnsupportedParameter(name, "This service does not know it; leave it out.")
    if missing := _MISSING_FIELD.search(what):
        name = _join(path, missing.group(1))
        return InvalidRequest(
            f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
        )
    allowed = next((told for where, told in tags if where.search(path)), None)
    hint = f" (allowed: {allowed})" if allowed else ""
    return InvalidRequest(f"Invalid '{path or 'body'}': {what}{hint}.", param=path or None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
