"""Rejects fields and values of the Responses API that this service does not support."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.gateway.responses.request_types import ResponsesRequest

_AT_OPENAI = "It requires OpenAI's servers. Omit it."

# Unsupported fields: the values that change nothing and are accepted, and what to do instead.
_REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "background": (
        (False,),
        "Background responses are not supported. Omit it; set 'stream' to receive the response "
        "while it is generated.",
    ),
    "conversation": ((), "Send 'previous_response_id', or the whole conversation as 'input'."),
    "prompt": ((), "Prompt templates are stored at OpenAI. Send 'instructions' and 'input'."),
    "max_tool_calls": ((), "It limits OpenAI's built-in tools, which are not supported. Omit it."),
    "prompt_cache_retention": (
        ("in_memory",),
        "The prefix cache keeps prompts as long as memory allows. Omit it.",
    ),
    "truncation": (
        ("disabled",),
        "Conversations are never truncated automatically. Remove old items from 'input'.",
    ),
    "text.verbosity": (
        ("medium",),
        "The models do not support it. Set the desired length in 'instructions'.",
    ),
    "reasoning.generate_summary": ((), "Send 'reasoning.summary' instead."),
    "reasoning.summary": (
        ("auto", "detailed"),
        "Reasoning is not summarized. With 'auto' or 'detailed' the summary has its full text.",
    ),
    "reasoning.context": (
        ("auto",),
        "The chat template selects the reasoning in the prompt. Omit it.",
    ),
    "reasoning.mode": (("standard",), _AT_OPENAI),
}

# Fields that do not change the response, or only give the model a hint.
_ADVISORY = frozenset({"prompt_cache_retention", "text.verbosity", "max_tool_calls"})

# `message.input_image.image_url` is always included.
_INCLUDABLE = (
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
)

# Tools that OpenAI's servers run, or whose calls only OpenAI's models write. They are dropped.
_BUILT_IN = re.compile(
    r"(?:web_search(?:_preview)?(?:_\d{4}_\d{2}_\d{2})?|file_search|code_interpreter|mcp|"
    r"image_generation|computer|computer_use_preview|local_shell|shell|apply_patch|tool_search|"
    r"programmatic_tool_calling)\Z"
)
_TOOLS = ("function", "namespace")

_ITEMS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")
_PARTS = ("input_text", "input_image", "output_text", "refusal")
_REASONING_PARTS = ("summary_text", "reasoning_text")
_FORMATS = ("text", "json_object", "json_schema")


def is_built_in(kind: object) -> bool:
    """Whether a tool of this type is one of OpenAI's built-in tools."""
    return isinstance(kind, str) and _BUILT_IN.match(kind) is not None


def check(request: ResponsesRequest, ignored: list[str] | None = None) -> None:
    """Reject unsupported fields and values.

    Args:
        request: the request.
        ignored: list to append the names of advisory ones to; None rejects these, too.

    Raises:
        UnsupportedParameter: a field or value is not supported.
        InvalidRequest: a field requires another one.
    """
    for path, (neutral, why) in _REFUSED.items():
        value: Any = request
        for name in path.split("."):
            value = getattr(value, name, None)
        if value is None or value in neutral:
            continue
        if ignored is None or path not in _ADVISORY:
            raise UnsupportedParameter(path, why)
        ignored.append(path)
    for number, name in enumerate(request.include or ()):
        if name not in _INCLUDABLE:
            raise UnsupportedParameter(
                f"include[{number}]",
                f"'{name}' is not supported. Supported: {', '.join(_INCLUDABLE)}.",
            )
    if request.top_logprobs and not request.includes_logprobs:
        raise InvalidRequest(
            "'top_logprobs' is only allowed when 'include' has 'message.output_text.logprobs'.",
            param="top_logprobs",
        )


def explain(body: bytes) -> UnsupportedParameter | None:
    """Return an error for the first unsupported type in an invalid body, or None.

    The error of the parser lists the valid types; this one also has an alternative.
    """
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raw = msgspec.json.decode(body)
        if isinstance(raw, dict):
            return next(_unsupported_types(raw), None)
    return None


def _unsupported_types(raw: dict[str, Any]) -> Iterator[UnsupportedParameter]:
    for where, tool in _numbered(raw.get("tools"), "tools"):
        if not is_built_in(tool.get("type")):
            yield from _kind(where, tool, _TOOLS, "a tool", "Define a function.")
        for inside, each in _numbered(tool.get("tools"), f"{where}.tools"):
            yield from _kind(inside, each, ("function",), "a tool", "Define a function.")
    choice = raw.get("tool_choice")
    if isinstance(choice, dict):
        kinds = ("function", "allowed_tools")
        yield from _kind("tool_choice", choice, kinds, "a choice", "Name a function.")
        for where, tool in _numbered(choice.get("tools"), "tool_choice.tools"):
            yield from _kind(where, tool, ("function",), "a tool", "Name a function.")
    for where, item in _numbered(raw.get("input"), "input"):
        if item.get("type") is not None:
            yield from _kind(where, item, _ITEMS, "an item", "Omit it.")
        for name in ("content", "summary", "output"):
            parts = _PARTS if item.get("type") != "reasoning" else _REASONING_PARTS
            for inside, part in _numbered(item.get(name), f"{where}.{name}"):
                yield from _kind(inside, part, parts, "content", "Send text or an image.")
    text = raw.get("text")
    if isinstance(text, dict) and isinstance(text.get("format"), dict):
        yield from _kind("text.format", text["format"], _FORMATS, "a format", "Send a JSON schema.")


def _numbered(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, entry in enumerate(value if isinstance(value, list) else ()):
        if isinstance(entry, dict):
            yield f"{where}[{number}]", entry


def _kind(
    where: str, value: dict[str, Any], known: tuple[str, ...], what: str, instead: str
) -> Iterator[UnsupportedParameter]:
    kind = value.get("type")
    if isinstance(kind, str) and kind not in known:
        yield UnsupportedParameter(
            f"{where}.type",
            f"'{kind}' is not supported as {what}. Supported: {', '.join(known)}. {instead}",
        )
