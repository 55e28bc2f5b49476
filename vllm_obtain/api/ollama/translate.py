"""Ollama's requests as ours. Pure: no model, no engine."""

from __future__ import annotations

import re
from typing import Any

from vllm_obtain.api.ollama.conversation import content, conversation
from vllm_obtain.api.ollama.options import sampling
from vllm_obtain.api.ollama.requests import (
    ChatBody,
    Format,
    GenerateBody,
    GenerationFields,
    KeepAlive,
)
from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.protocol.conversation import Message, SystemMessage, UserMessage
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
_NOT_HERE = {
    "template": "A model's own template is used; for another one, send its text with 'raw'.",
    "context": "Earlier turns go to /api/chat as messages.",
    "suffix": "No engine here fills in what stands before a text; leave it out.",
}


def chat(body: ChatBody) -> ChatRequest:
    """Translate the body of POST /api/chat.

    Raises:
        InvalidRequest: something in it cannot be right, or is not done here.
    """
    return ChatRequest(
        messages=conversation(body.messages),
        tools=[Tool(tool.function) for tool in body.tools or ()] or None,
        response_format=_response_format(body.format),
        **_thinking(body),
        **_common(body),
    )


def generate(body: GenerateBody) -> InferenceRequest:
    """Translate the body of POST /api/generate: a chat of one turn, or a text if it is raw.

    Raises:
        InvalidRequest: something in it cannot be right, or is not done here.
    """
    for name, why in _NOT_HERE.items():
        if getattr(body, name):
            raise UnsupportedParameter(name, why)
    if body.raw:
        return _raw(body)
    messages: list[Message] = [SystemMessage(body.system)] if body.system else []
    messages.append(UserMessage(content(body.prompt, body.images, "images")))
    return ChatRequest(
        messages=messages,
        response_format=_response_format(body.format),
        **_thinking(body),
        **_common(body),
    )


def seconds(keep_alive: KeepAlive | None) -> float | None:
    """Read how long a model shall stay; negative is for ever.

    Args:
        keep_alive: seconds, or a duration as Go writes it: `5m`, `1h30m`, `-1s`.

    Raises:
        InvalidRequest: it is no duration.
    """
    if keep_alive is None or isinstance(keep_alive, int | float):
        return keep_alive
    if not _DURATION.fullmatch(keep_alive):
        raise InvalidRequest(
            "Invalid 'keep_alive': it is a number of seconds, or a text such as '5m' or '1h30m'.",
            param="keep_alive",
        )
    total = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PIECE, keep_alive))
    return -total if keep_alive.startswith("-") else total


def _raw(body: GenerateBody) -> CompletionRequest:
    for name in ("system", "images", "think"):
        if getattr(body, name):
            raise InvalidRequest(
                f"Invalid '{name}': a raw prompt goes to the model as it is.", param=name
            )
    fields = _common(body)
    top = fields.pop("top_logprobs", None) or 0
    if fields.pop("logprobs", None):
        if top > _RAW_ALTERNATIVES:
            raise InvalidRequest(
                f"Invalid 'top_logprobs': with 'raw' it is at most {_RAW_ALTERNATIVES}.",
                param="top_logprobs",
            )
        fields["logprobs"] = top
    outputs = _response_format(body.format)
    if isinstance(outputs, SchemaFormat):
        fields["structured_outputs"] = StructuredOutputs(json=outputs.json_schema.schema)
    elif outputs is not None:
        fields["structured_outputs"] = StructuredOutputs(json_object=True)
    return CompletionRequest(prompt=body.prompt, **fields)


def _common(body: GenerationFields) -> dict[str, Any]:
    seconds(body.keep_alive)
    if body.shift:
        # `truncate` needs no such check: a prompt that is too long is refused, never cut.
        raise UnsupportedParameter(
            "shift", "An answer ends where the context ends, with done_reason 'length'."
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
        **sampling(body.options),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _thinking(body: GenerationFields) -> dict[str, Any]:
    if body.think is None:
        return {}
    return {"reasoning_effort": _EFFORT.get(body.think, body.think)}


def _response_format(wanted: Format | None) -> ResponseFormat | None:
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return ObjectFormat()
    if isinstance(wanted, str):
        raise InvalidRequest(
            "Invalid 'format': it is 'json' or a JSON schema, as an object.", param="format"
        )
    return SchemaFormat(NamedSchema("format", wanted, strict=True))
