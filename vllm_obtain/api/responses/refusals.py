"""What the Responses API has and this service does not, each refused by its name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter

if TYPE_CHECKING:
    from vllm_obtain.api.responses.asked import Asked

_AT_OPENAI = "It needs OpenAI's own servers; leave it out."

# Whole fields, and values of fields that ask for no more than what happens anyway.
_REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "background": (
        (False,),
        "Responses are made while the client waits; leave it out, and set 'stream' to see them "
        "grow.",
    ),
    "conversation": ((), "Send 'previous_response_id', or the whole conversation as 'input'."),
    "prompt": ((), "Prompt templates are kept at OpenAI; send 'instructions' and 'input'."),
    "max_tool_calls": ((), "It limits OpenAI's built-in tools, and there are none here."),
    "prompt_cache_retention": (
        ("in_memory",),
        "Prompts are kept in the engine's memory as long as there is room; leave it out.",
    ),
    "truncation": (
        ("disabled",),
        "A conversation is never cut silently; leave out old items of 'input' yourself.",
    ),
    "text.verbosity": (
        ("medium",),
        "Models here do not know it; say in 'instructions' how long the answer shall be.",
    ),
    "reasoning.generate_summary": ((), "Send 'reasoning.summary' instead."),
    "reasoning.summary": (
        ("auto", "detailed"),
        "Reasoning is told whole; 'auto' and 'detailed' tell it as the summary.",
    ),
    "reasoning.context": (("auto",), "The model's template decides which reasoning it sees again."),
    "reasoning.mode": (("standard",), _AT_OPENAI),
}

# `message.input_image.image_url` asks for what is always there.
_INCLUDABLE = (
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
)

_ITEMS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")
_PARTS = ("input_text", "input_image", "output_text", "refusal")
_REASONING_PARTS = ("summary_text", "reasoning_text")
_FORMATS = ("text", "json_object", "json_schema")


def check(asked: Asked) -> None:
    """Refuse fields and values that would have to be ignored.

    Raises:
        UnsupportedParameter: naming it.
        InvalidRequest: fields that need each other are not together.
    """
    for path, (neutral, why) in _REFUSED.items():
        value: Any = asked
        for name in path.split("."):
            value = getattr(value, name, None)
        if value is not None and value not in neutral:
            raise UnsupportedParameter(path, why)
    for number, name in enumerate(asked.include or ()):
        if name not in _INCLUDABLE:
            raise UnsupportedParameter(
                f"include[{number}]", f"'{name}' is not here; allowed: {', '.join(_INCLUDABLE)}."
            )
    if asked.top_logprobs and not asked.includes_logprobs:
        raise InvalidRequest(
            "'top_logprobs' is only allowed when 'include' holds 'message.output_text.logprobs'.",
            param="top_logprobs",
        )


def explain(body: bytes) -> UnsupportedParameter | None:
    """Look whether a body that is refused names a kind of thing that only OpenAI has.

    Its own refusal would speak of what may stand there; this one says what to do instead.
    """
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raw = msgspec.json.decode(body)
        if isinstance(raw, dict):
            return next(_foreign(raw), None)
    return None


def _foreign(raw: dict[str, Any]) -> Iterator[UnsupportedParameter]:
    for where, tool in _numbered(raw.get("tools"), "tools"):
        yield from _kind(where, tool, ("function",), "a tool", "Define a function instead.")
    choice = raw.get("tool_choice")
    if isinstance(choice, dict):
        kinds = ("function", "allowed_tools")
        yield from _kind("tool_choice", choice, kinds, "a choice", "Name a function instead.")
        for where, tool in _numbered(choice.get("tools"), "tool_choice.tools"):
            yield from _kind(where, tool, ("function",), "a tool", "Name a function instead.")
    for where, item in _numbered(raw.get("input"), "input"):
        if item.get("type") is not None:
            yield from _kind(where, item, _ITEMS, "an item", "Leave it out.")
        for name in ("content", "summary", "output"):
            parts = _PARTS if item.get("type") != "reasoning" else _REASONING_PARTS
            for inside, part in _numbered(item.get(name), f"{where}.{name}"):
                yield from _kind(inside, part, parts, "content", "Send it as text or image.")
    text = raw.get("text")
    if isinstance(text, dict) and isinstance(text.get("format"), dict):
        yield from _kind("text.format", text["format"], _FORMATS, "a format", "Send a JSON schema.")


def _numbered(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, each in enumerate(value if isinstance(value, list) else ()):
        if isinstance(each, dict):
            yield f"{where}[{number}]", each


def _kind(
    where: str, found: dict[str, Any], known: tuple[str, ...], what: str, instead: str
) -> Iterator[UnsupportedParameter]:
    kind = found.get("type")
    if isinstance(kind, str) and kind not in known:
        yield UnsupportedParameter(
            f"{where}.type",
            f"'{kind}' is not {what} that this service has: {', '.join(known)}. {instead}",
        )
