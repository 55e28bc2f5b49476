"""Parses and checks request bodies, and names the invalid field in errors."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

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

# Parameters that change the completion: an API without them rejects them.
_NEVER_IGNORED = frozenset(
    "temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty n stop "
    "seed logit_bias min_tokens ignore_eos max_tokens max_completion_tokens logprobs "
    "response_format guided_json guided_regex guided_choice guided_grammar structured_outputs "
    "tools tool_choice".split()
)

# Names of ignored fields that a response header has.
_MOST_IGNORED = 32


def finite_number(text: str) -> float:
    """Parse a number in a field of any type, such as a JSON Schema.

    Some libraries write 1.8e308 for a maximum. It becomes the largest number of this machine.
    """
    return max(-sys.float_info.max, min(sys.float_info.max, float(text)))


_any = msgspec.json.Decoder(float_hook=finite_number)
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
        ignored: list to append the names of unknown fields to; None rejects them. Fields of the
            same name in several elements of a list have one name.
        tags: the allowed tags of union types, by patterns of the field; the first match is used.

    Raises:
        InvalidRequest: not JSON, more than `MOST_VALUES` values or `MOST_FIELDS` fields, a wrong
            type, or a value out of range; an `UnsupportedParameter` for an unknown field.
    """
    _check_values(body)
    try:
        try:
            return _decoded(body, decoder)
        except msgspec.ValidationError as error:
            refusal = _refusal(str(error), tags)
        if ignored is None or not isinstance(refusal, UnsupportedParameter):
            raise refusal
        kind: Any = decoder.type
        converted: T = convert(_any.decode(body), kind, ignored, tags)
        return converted
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"The body is not valid JSON: {error}."
        raise InvalidRequest(message, code="invalid_json") from None
    except RecursionError:
        raise _too_deep() from None


def _too_deep() -> InvalidRequest:
    return InvalidRequest("The body is nested too deeply.", code="invalid_json")


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


def convert(value: Any, kind: type[T], ignored: list[str] | None = None, tags: Tags = _TAGS) -> T:
    """Convert a decoded value to a type, with the errors of `decode`.

    Args:
        value: the value; unknown fields are removed from it.
        kind: the type.
        ignored: as for `decode`.
        tags: as for `decode`.

    Raises:
        InvalidRequest: as `decode`.
    """
    try:
        try:
            return _converted(value, kind)
        except msgspec.ValidationError as error:
            refusal = _refusal(str(error), tags)
        if ignored is None or not isinstance(refusal, UnsupportedParameter):
            raise refusal
        ignored += _remove_unknown(value, kind)[: max(0, _MOST_IGNORED - len(ignored))]
        return _converted(value, kind)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), tags) from None
    except RecursionError:
        raise _too_deep() from None


def _converted(value: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind, str_keys=True)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
    # Some languages write integers as 20.0, which JSON Schema accepts as an integer.
    return msgspec.convert(_with_integers(value), kind, str_keys=True)


def _remove_unknown(value: Any, kind: Any) -> list[str]:
    """Remove unknown fields; returns their names, one for all elements of a list."""
    found: list[str] = []
    _prune(value, _type_info(kind), "", found)
    names = {re.sub(r"\[\d+\]", "[]", name): name for name in reversed(found)}
    return list(reversed(names.values()))


@functools.cache
def _type_info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _prune(value: Any, kind: inspect.Type, path: str, found: list[str]) -> None:
    """Remove fields of objects that their types do not have, and append their names.

    Those of `_NEVER_IGNORED` stay in the body itself.
    """
    if isinstance(kind, inspect.Metadata):
        _prune(value, kind.type, path, found)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            if _matches(value, each):
                _prune(value, each, path, found)
                return
    elif isinstance(kind, inspect.ListType) and isinstance(value, list):
        for number, item in enumerate(value):
            _prune(item, kind.item_type, f"{path}[{number}]", found)
    elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
        for name, item in value.items():
            _prune(item, kind.value_type, _join(path, name), found)
    elif isinstance(kind, inspect.StructType) and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        for name in list(value):
            if name in fields:
                _prune(value[name], fields[name], _join(path, name), found)
            elif name != kind.tag_field and (path or name not in _NEVER_IGNORED):
                del value[name]
                found.append(_join(path, name))


def _matches(value: Any, kind: inspect.Type) -> bool:
    """Whether a value belongs to this type of a union."""
    if isinstance(kind, inspect.Metadata):
        return _matches(value, kind.type)
    if isinstance(kind, inspect.StructType):
        is_tagged = kind.tag_field is not None
        return isinstance(value, dict) and (not is_tagged or value.get(kind.tag_field) == kind.tag)
    if isinstance(kind, inspect.ListType):
        return isinstance(value, list)
    return isinstance(kind, inspect.DictType) and isinstance(value, dict)


def _decoded(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
    kind: Any = decoder.type
    converted: T = _converted(_any.decode(body), kind)
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
