"""Parses and checks request bodies, and names the invalid field in errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest

T = TypeVar("T")

_PATH = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*)`$", re.DOTALL)
_MISSING_FIELD = re.compile(r"missing required field `([^`]*)`")

# Allowed values of type tags, by field: msgspec names only the invalid one.
Tags = Sequence[tuple[re.Pattern[str], str]]
_TAGS: Tags = (
    (re.compile(r"\.role$"), "system, developer, user, assistant, tool"),
    (re.compile(r"content\[\.*\d*\]\.type$"), "text, image_url"),
    (re.compile(r"^response_format\.type$"), "text, json_object, json_schema"),
    (re.compile(r"^tool_choice\.type$"), "function, allowed_tools"),
    (re.compile(r"tools\[\.*\d*\]\.type$"), "function"),
)

# The most values in a body, counted by its commas: a prompt of a million token ids has as many.
MOST_VALUES = 1_200_000
# The most fields in a body, counted by its colons. Each takes a worker half a microsecond.
MOST_FIELDS = 500_000

# Each ignored field costs another decoding of the body.
_MOST_IGNORED = 32


def finite_number(text: str) -> float:
    """Parse a number in a field of any type, such as a JSON Schema.

    Some libraries write 1.8e308 for a maximum. It becomes the largest number of this machine.
    """
    return max(-sys.float_info.max, min(sys.float_info.max, float(text)))


_chat = msgspec.json.Decoder(ChatRequest, float_hook=finite_number)
_completion = msgspec.json.Decoder(CompletionRequest, float_hook=finite_number)


def parse_chat(body: bytes, ignored: list[str] | None = None) -> ChatRequest:
    """Parse the body of POST /v1/chat/completions; arguments as for `decode`.

    Raises:
        InvalidRequest: not JSON, a wrong type, a value out of range, or an unknown field.
    """
    return decode(body, _chat, ignored)


def parse_completion(body: bytes, ignored: list[str] | None = None) -> CompletionRequest:
    """Parse the body of POST /v1/completions; arguments as for `decode`.

    Raises:
        InvalidRequest: not JSON, a wrong type, a value out of range, or an unknown field.
    """
    request = decode(body, _completion, ignored)
    if isinstance(request.prompt, list):
        request.prompt = _one_prompt(request.prompt)
    return request


def _one_prompt(prompt: list[int | str]) -> str | list[int | str]:
    """Accept a list of token ids, or a list with one text."""
    if len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    if all(isinstance(token, int) for token in prompt):
        return prompt
    raise InvalidRequest(
        "Invalid 'prompt': a request has one text or one list of token ids. "
        "Send one request per prompt.",
        param="prompt",
    )


def decode(
    body: bytes,
    decoder: msgspec.json.Decoder[T],
    ignored: list[str] | None = None,
    tags: Tags = _TAGS,
) -> T:
    """Decode a body.

    Args:
        body: JSON.
        decoder: decoder of the expected type.
        ignored: list to append the names of unknown fields to; None rejects them.
        tags: the allowed tags of union types, by patterns of the field; the first match is used.

    Raises:
        InvalidRequest: not JSON, more than `MOST_VALUES` values or `MOST_FIELDS` fields, a wrong
            type, or a value out of range; an `UnsupportedParameter` for an unknown field.
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
    """Reject a body that would block the worker for too long while it is decoded.

    Every value but the first of a list or object follows a comma, and every name a colon. Texts
    contain them too, but less often than any context length allows.
    """
    if len(body) <= MOST_FIELDS:
        return
    for sign, most, what in ((b",", MOST_VALUES, "values"), (b":", MOST_FIELDS, "fields")):
        if body.count(sign) > most:
            raise InvalidRequest(
                f"The body has more than {most:,} {what}. Send fewer {what}.", code="invalid_json"
            )


def _without(body: bytes, refusal: UnsupportedParameter) -> bytes:
    """Remove the field that an error names, such as `messages[0].content`.

    Raises:
        InvalidRequest: the error itself, if the field cannot be located.
    """
    try:
        value = msgspec.json.decode(body)
        path, _, last = _split_path(value, str(refusal.param))
        parent = value
        for step in re.findall(r"[^.\[\]]+", path):
            parent = parent[int(step)] if isinstance(parent, list) else parent[step]
        del parent[last]
        return msgspec.json.encode(value)
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError):
        raise refusal from None


def _split_path(value: object, name: str) -> tuple[str, str, str]:
    """Split a path into parent and field; a top-level field may contain dots."""
    return ("", "", name) if isinstance(value, dict) and name in value else name.rpartition(".")


def convert(value: object, kind: type[T]) -> T:
    """Convert a decoded value to a type, with the errors of `decode`."""
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
    # Some languages write integers as 20.0, which JSON Schema accepts as an integer.
    value = _with_integers(msgspec.json.decode(body))
    converted: T = msgspec.convert(value, decoder.type, str_keys=True)
    return converted


def _with_integers(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_with_integers(item) for item in value]
    if isinstance(value, dict):
        return {name: _with_integers(item) for name, item in value.items()}
    return value


def _refusal(text: str, tags: Tags) -> InvalidRequest:
    match = _PATH.search(text)
    path = match.group(1) if match else ""
    what = text[: match.start()] if match else text
    if unknown := _UNKNOWN_FIELD.search(what):
        name = _join(path, unknown.group(1))
        return UnsupportedParameter(name, "This service does not know it. Remove it.")
    if missing := _MISSING_FIELD.search(what):
        name = _join(path, missing.group(1))
        return InvalidRequest(
            f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
        )
    allowed = next((names for where, names in tags if where.search(path)), None)
    hint = f" (allowed: {allowed})" if allowed else ""
    return InvalidRequest(f"Invalid '{path or 'body'}': {what}{hint}.", param=path or None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
