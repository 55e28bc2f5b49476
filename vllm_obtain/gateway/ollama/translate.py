"""Translates Ollama requests to OpenAI requests; uses no model and no engine."""

from __future__ import annotations

import re
from typing import Any

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.gateway.ollama.messages import content, conversation
from vllm_obtain.gateway.ollama.options import sampling
from vllm_obtain.gateway.ollama.request_types import (
    ChatBody,
    Format,
    GenerateBody,
    GenerationFields,
    KeepAlive,
)
from vllm_obtain.protocol.messages import Message, SystemMessage, UserMessage
from vllm_obtain.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    InferenceRequest,
    StructuredOutputs,
)
from vllm_obtain.protocol.tools import NamedSchema, ObjectFormat, ResponseFormat, SchemaFormat, Tool

LATEST = ":latest"

_PIECE = r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)"
_DURATION = re.compile(rf"[+-]?(?:0|(?:{_PIECE})+)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_EFFORT: dict[bool | str, str] = {False: "none", True: "medium", "max": "xhigh"}

# OpenAI's limit for text completions.
_RAW_ALTERNATIVES = 5
_UNSUPPORTED = {
    "template": "The model's chat template is used; to use another one, render it and set 'raw'.",
    "context": "Send earlier turns as messages to /api/chat.",
    "suffix": "Fill-in-the-middle is not supported; remove the field.",
}


def chat(body: ChatBody, ignored: list[str] | None = None) -> ChatRequest:
    """Translate the body of POST /api/chat; `ignored` as for `options.sampling`.

    Raises:
        InvalidRequest: a field is invalid or not supported.
    """
    return ChatRequest(
        messages=conversation(body.messages),
        tools=[Tool(tool.function) for tool in body.tools or ()] or None,
        response_format=_response_format(body.format),
        **_thinking(body),
        **_common(body, ignored),
    )


def generate(body: GenerateBody, ignored: list[str] | None = None) -> InferenceRequest:
    """Translate the body of POST /api/generate: a chat of one turn, or a text if it is raw.

    `ignored` is as for `options.sampling`.

    Raises:
        InvalidRequest: a field is invalid or not supported.
    """
    for name, reason in _UNSUPPORTED.items():
        if getattr(body, name):
            raise UnsupportedParameter(name, reason)
    if body.raw:
        return _raw(body, ignored)
    messages: list[Message] = [SystemMessage(body.system)] if body.system else []
    messages.append(UserMessage(content(body.prompt, body.images, "images")))
    return ChatRequest(
        messages=messages,
        response_format=_response_format(body.format),
        **_thinking(body),
        **_common(body, ignored),
    )


def seconds(keep_alive: KeepAlive | None) -> float | None:
    """Parse `keep_alive` to seconds; negative values mean forever.

    Args:
        keep_alive: seconds, or a duration in Go's format: `5m`, `1h30m`, `-1s`.

    Raises:
        InvalidRequest: the value is not a duration.
    """
    if keep_alive is None or isinstance(keep_alive, int | float):
        return keep_alive
    if not _DURATION.fullmatch(keep_alive):
        raise InvalidRequest(
            "Invalid 'keep_alive': must be seconds, or a duration such as '5m' or '1h30m'.",
            param="keep_alive",
        )
    total = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PIECE, keep_alive))
    return -total if keep_alive.startswith("-") else total


def _raw(body: GenerateBody, ignored: list[str] | None) -> CompletionRequest:
    for name in ("system", "images", "think"):
        if getattr(body, name):
            raise InvalidRequest(
                f"Invalid '{name}': not allowed with 'raw'. Remove one of them.", param=name
            )
    fields = _common(body, ignored)
    top = fields.pop("top_logprobs", None) or 0
    if fields.pop("logprobs", None):
        if top > _RAW_ALTERNATIVES:
            raise InvalidRequest(
                f"Invalid 'top_logprobs': must be at most {_RAW_ALTERNATIVES} with 'raw'.",
                param="top_logprobs",
            )
        fields["logprobs"] = top
    outputs = _response_format(body.format)
    if isinstance(outputs, SchemaFormat):
        fields["structured_outputs"] = StructuredOutputs(json=outputs.json_schema.schema)
    elif outputs is not None:
        fields["structured_outputs"] = StructuredOutputs(json_object=True)
    return CompletionRequest(prompt=body.prompt, **fields)


def _common(body: GenerationFields, ignored: list[str] | None) -> dict[str, Any]:
    seconds(body.keep_alive)
    if body.shift:
        # `truncate` needs no check: a prompt that is too long is rejected, never truncated.
        raise UnsupportedParameter(
            "shift", "Completions end at the context length, with done_reason 'length'."
        )
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest(
            "'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs"
        )
    fields = {
        "model": body.model,
        "stream": body.wants_stream,
        "logprobs": body.logprobs or None,
        "top_logprobs": body.top_logprobs or None,
        **sampling(body.options, ignored),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _thinking(body: GenerationFields) -> dict[str, Any]:
    if body.think is None:
        return {}
    return {"reasoning_effort": _EFFORT.get(body.think, body.think)}


def _response_format(value: Format | None) -> ResponseFormat | None:
    if value is None or value == "":
        return None
    if value == "json":
        return ObjectFormat()
    if isinstance(value, str):
        raise InvalidRequest(
            "Invalid 'format': must be 'json' or a JSON Schema object.", param="format"
        )
    return SchemaFormat(NamedSchema("format", value, strict=True))
