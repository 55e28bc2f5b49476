"""Reads the structured-output fields of a request: OpenAI's, and vLLM's old and new ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from vllm_obtain.chat import grammar
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.protocol.requests import ChatRequest, InferenceFields, InferenceRequest
from vllm_obtain.protocol.tools import ObjectFormat, SchemaFormat


@dataclass(frozen=True, slots=True)
class OutputConstraint:
    """A structured-output constraint.

    Args:
        grammar: the grammar that the completion must match.
        param: the request field that it comes from.
    """

    grammar: str
    param: str


def output_constraint(request: InferenceRequest) -> OutputConstraint | None:
    """Return the structured-output constraint of a request, or None.

    Raises:
        InvalidRequest: there is more than one, or it is invalid.
    """
    constraints = [*_guided(request), *_structured(request)]
    if isinstance(request, ChatRequest):
        constraints += _response_format(request)
    for constraint in constraints:
        grammar.check_size(len(constraint.grammar), constraint.param)
    if len(constraints) > 1:
        first, second = constraints[0].param, constraints[1].param
        raise InvalidRequest(
            f"'{first}' and '{second}' are mutually exclusive. Remove one of them.", param=second
        )
    return constraints[0] if constraints else None


def _response_format(request: ChatRequest) -> list[OutputConstraint]:
    response_format = request.response_format
    if isinstance(response_format, ObjectFormat):
        return [OutputConstraint(grammar.of_object(), "response_format")]
    if isinstance(response_format, SchemaFormat):
        schema = response_format.json_schema.schema
        if schema is None:
            return [OutputConstraint(grammar.of_object(), "response_format")]
        lark = grammar.of_contract(schema, "response_format")
        return [OutputConstraint(lark, "response_format")]
    return []


def _guided(request: InferenceFields) -> list[OutputConstraint]:
    return _constraints(
        "guided_",
        request.guided_json,
        request.guided_regex,
        request.guided_choice,
        request.guided_grammar,
    )


def _structured(request: InferenceFields) -> list[OutputConstraint]:
    outputs = request.structured_outputs
    if outputs is None:
        return []
    constraints = _constraints(
        "structured_outputs.", outputs.json, outputs.regex, outputs.choice, outputs.grammar
    )
    if outputs.json_object:
        constraints.append(OutputConstraint(grammar.of_object(), "structured_outputs.json_object"))
    return constraints


def _constraints(
    where: str,
    schema: dict[str, Any] | str | None,
    regex: str | None,
    choice: list[str] | None,
    language: str | None,
) -> list[OutputConstraint]:
    constraints = []
    if schema is not None:
        name = f"{where}json"
        constraints.append(OutputConstraint(grammar.of_contract(_schema(schema, name), name), name))
    if regex is not None:
        grammar.check_size(len(regex), f"{where}regex")
        constraints.append(
            OutputConstraint(grammar.of_regex(regex, f"{where}regex"), f"{where}regex")
        )
    if choice is not None:
        grammar.check_size(sum(map(len, choice)) + len(choice), f"{where}choice")
        constraints.append(OutputConstraint(grammar.of_choice(choice), f"{where}choice"))
    if language is not None:
        name = f"{where}grammar"
        constraints.append(OutputConstraint(grammar.of_language(language, name), name))
    return constraints


def _schema(schema: dict[str, Any] | str, param: str) -> Any:
    if not isinstance(schema, str):
        return schema
    try:
        return msgspec.json.decode(schema)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest(f"Invalid '{param}': it is not valid JSON.", param=param) from None
