"""Ollama's messages as OpenAI has them: calls and their answers get ids, images become parts."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from vllm_obtain.api.ollama import requests
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.protocol.conversation import (
    AssistantMessage,
    CalledFunction,
    Content,
    DeveloperMessage,
    ImagePart,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)

# The first bytes of the kinds of image that models are trained on.
_KINDS = {
    b"\x89PNG\r\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
# As many characters of Base64 as hold those bytes.
_HEAD = 16
_ROLES = ("system", "developer", "user", "assistant", "tool")
# Fields that only messages of one role can have.
_BELONG = {
    "thinking": "assistant",
    "tool_calls": "assistant",
    "tool_name": "tool",
    "tool_call_id": "tool",
}


@dataclass
class _Open:
    """A call that no message has answered yet."""

    id: str
    name: str


def conversation(messages: Sequence[requests.Message]) -> list[Message]:
    """Translate messages.

    Calls without an id get one by their place, and an answer without one belongs to the first
    call of its tool's name that has none, or simply the first.

    Raises:
        InvalidRequest: a field that such a message cannot have, or an image that is none.
    """
    open_calls: list[_Open] = []
    return [_message(message, index, open_calls) for index, message in enumerate(messages)]


def image(encoded: str, where: str) -> ImagePart:
    """Make an image of its Base64 text a part of a message.

    Args:
        encoded: the image, with or without the head of a data URL.
        where: the field's name, for an error.
    """
    data = encoded.partition(",")[2] if encoded.startswith("data:") else encoded
    try:
        head = b64decode(data[:_HEAD], validate=True)
    except (NotBase64, ValueError):
        head = b""
    kind = next((kind for first, kind in _KINDS.items() if head.startswith(first)), None)
    if kind is None:
        raise InvalidRequest(
            f"Invalid '{where}': it is no PNG, JPEG, GIF or WebP image in Base64.", param=where
        )
    return ImagePart.placed(f"data:{kind};base64,{data}", where)


def content(text: str, images: Sequence[str] | None, where: str) -> Content:
    """Join a text and the images that go with it.

    Args:
        text: may be empty beside images.
        images: in Base64.
        where: the name of the field with the images, for an error.
    """
    if not images:
        return text
    parts: list[TextPart | ImagePart] = [TextPart(text)] if text else []
    parts += [image(each, f"{where}[{number}]") for number, each in enumerate(images)]
    return parts


def _message(message: requests.Message, index: int, open_calls: list[_Open]) -> Message:
    where, role = f"messages[{index}]", message.role.lower()
    if role not in _ROLES:
        raise InvalidRequest(
            f"Invalid '{where}.role': it is one of {', '.join(_ROLES)}.", param=f"{where}.role"
        )
    for field, owner in _BELONG.items():
        if getattr(message, field) and role != owner:
            raise InvalidRequest(
                f"Invalid '{where}.{field}': only a message of role '{owner}' has it.",
                param=f"{where}.{field}",
            )
    said = content(message.content or "", message.images, f"{where}.images")
    if role == "assistant":
        calls = _calls(message.tool_calls or (), index, open_calls)
        empty = not said and bool(calls)
        return AssistantMessage(
            None if empty else said,
            tool_calls=calls or None,
            reasoning_content=message.thinking or None,
        )
    if role == "tool":
        answered = _answered(message, index, open_calls)
        return ToolMessage(said, answered, message.tool_name or None)
    if role == "user":
        return UserMessage(said)
    return DeveloperMessage(said) if role == "developer" else SystemMessage(said)


def _calls(
    calls: Sequence[requests.ToolCall], index: int, open_calls: list[_Open]
) -> list[ToolCall]:
    made = []
    for number, call in enumerate(calls):
        function = call.function
        arguments = msgspec.json.encode(function.arguments).decode()
        made.append(
            ToolCall(call.id or f"call_{index}_{number}", CalledFunction(function.name, arguments))
        )
    open_calls += [_Open(call.id, call.function.name) for call in made]
    return made


def _answered(message: requests.Message, index: int, open_calls: list[_Open]) -> str:
    """Find the call that a tool's message answers, and close it."""
    given, name = message.tool_call_id, message.tool_name
    if given:
        found = next((call for call in open_calls if call.id == given), None)
    else:
        found = next((call for call in open_calls if not name or call.name == name), None)
    if found is not None:
        open_calls.remove(found)
    return given or (found.id if found else f"call_{index}")
