"""The form that a request wants its answer in, whichever of the names in use it has for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from vllm_obtain.chat import grammar
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.protocol.requests import ChatRequest, InferenceFields, InferenceRequest
from vllm_obtain.protocol.tools import ObjectFormat, SchemaFormat


@dataclass(frozen=True, slots=True)
class Wish:
    """A form.

    Args:
        grammar: that allows nothing else.
        param: the field that asks for it.
    """

    grammar: str
    param: str


def wished_form(request: InferenceRequest) -> Wish | None:
    """Find the form that a request wants; None for any.

    Raises:
        InvalidRequest: it wants more than one, or one that makes no sense.
    """
    found = [*_guided(request), *_structured(request)]
    if isinstance(request, ChatRequest):
        found += _format(request)
    for wish in found:
        grammar.check_size(len(wish.grammar), wish.param)
    if len(found) > 1:
        first, second = found[0].param, found[1].param
        raise InvalidRequest(
            f"'{first}' and '{second}' exclude each other: an answer has one form.", param=second
        )
    return found[0] if found else None


def _format(request: ChatRequest) -> list[Wish]:
    wanted = request.response_format
    if isinstance(wanted, ObjectFormat):
        return [Wish(grammar.of_object(), "response_format")]
    if isinstance(wanted, SchemaFormat):
        schema = wanted.json_schema.schema
        made = grammar.of_object() if schema is None else grammar.of_schema(schema)
        return [Wish(made, "response_format")]
    return []


def _guided(request: InferenceFields) -> list[Wish]:
    return _wishes(
        "guided_",
        request.guided_json,
        request.guided_regex,
        request.guided_choice,
        request.guided_grammar,
    )


def _structured(request: InferenceFields) -> list[Wish]:
    wanted = request.structured_outputs
    if wanted is None:
        return []
    found = _wishes("structured_outputs.", wanted.json, wanted.regex, wanted.choice, wanted.grammar)
    if wanted.json_object:
        found.append(Wish(grammar.of_object(), "structured_outputs.json_object"))
    return found


def _wishes(
    where: str,
    schema: dict[str, Any] | str | None,
    regex: str | None,
    choice: list[str] | None,
    language: str | None,
) -> list[Wish]:
    found = []
    if schema is not None:
        found.append(Wish(grammar.of_schema(_schema(schema, f"{where}json")), f"{where}json"))
    if regex is not None:
        grammar.check_size(len(regex), f"{where}regex")
        found.append(Wish(grammar.of_regex(regex), f"{where}regex"))
    if choice is not None:
        grammar.check_size(sum(map(len, choice)) + len(choice), f"{where}choice")
        found.append(Wish(grammar.of_choice(choice), f"{where}choice"))
    if language is not None:
        name = f"{where}grammar"
        found.append(Wish(grammar.of_language(language, name), name))
    return found


def _schema(schema: dict[str, Any] | str, param: str) -> Any:
    if not isinstance(schema, str):
        return schema
    try:
        return msgspec.json.decode(schema)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest(f"Invalid '{param}': it is not JSON.", param=param) from None
