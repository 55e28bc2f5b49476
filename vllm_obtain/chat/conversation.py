"""Messages as chat templates know them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.protocol.conversation import (
    AssistantMessage,
    DeveloperMessage,
    ImagePart,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
)
from vllm_obtain.protocol.moving import steady_content
from vllm_obtain.protocol.task import MARK

_FIRST = "messages[0]"
_ROLES = {"DeveloperMessage": "system", "SystemMessage": "system", "UserMessage": "user"}


def flatten(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Reduce messages to what templates know: role, text, calls, and a name or reasoning if given.

    Text parts are joined by a line break, as vLLM does for templates that know only strings. Where
    an image is, the text has a MARK.

    Raises:
        InvalidRequest: a message has nothing to say.
    """
    return [_flat(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _flat(message: Message, where: str) -> dict[str, Any]:
    flat: dict[str, Any] = {"role": _role(message), "content": _content(message, where)}
    if message.name is not None:
        flat["name"] = message.name
    if isinstance(message, ToolMessage):
        flat["tool_call_id"] = message.tool_call_id
    if isinstance(message, AssistantMessage):
        if thought := message.reasoning_content:
            flat["reasoning_content"] = thought
        if message.tool_calls:
            calls = enumerate(message.tool_calls)
            flat["tool_calls"] = [_call(call, where, number) for number, call in calls]
    return flat


def _role(message: Message) -> str:
    if isinstance(message, ToolMessage):
        return "tool"
    return _ROLES.get(type(message).__name__, "assistant")


def _content(message: Message, where: str) -> str:
    content = message.content
    if where == _FIRST and isinstance(message, SystemMessage | DeveloperMessage):
        content = steady_content(message.content)
    if isinstance(message, AssistantMessage) and content is None:
        content = message.refusal if message.refusal or not message.tool_calls else ""
    if content is None:
        raise InvalidRequest(f"Invalid '{where}.content': it is null.", param=f"{where}.content")
    return content if isinstance(content, str) else _joined(content)


def _joined(parts: Sequence[TextPart | ImagePart]) -> str:
    """Join parts; an image stands between two texts without line breaks, as in llama.cpp."""
    said, behind_text = "", False
    for part in parts:
        is_text = isinstance(part, TextPart)
        said += "\n" if is_text and behind_text else ""
        said += part.text if isinstance(part, TextPart) else MARK
        behind_text = is_text
    return said


def _call(call: ToolCall, where: str, number: int) -> dict[str, Any]:
    """Shape a call; templates want the arguments as an object, not as its text."""
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        name = f"{where}.tool_calls[{number}].function.arguments"
        raise InvalidRequest(f"Invalid '{name}': it is not a JSON object in a text.", param=name)
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}
