"""Translates Ollama's messages to OpenAI's: adds tool call ids, turns images into parts."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as NotBase64
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.gateway.ollama import request_types
from vllm_obtain.protocol.messages import (
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

# Magic numbers of supported image formats.
_KINDS = {
    b"\x89PNG\r\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
# Characters of Base64 that encode at least the magic number.
_HEAD = 16
_ROLES = ("system", "developer", "user", "assistant", "tool")
# Fields that are allowed in messages of one role only.
_ROLE_OF_FIELD = {
    "thinking": "assistant",
    "tool_calls": "assistant",
    "tool_name": "tool",
    "tool_call_id": "tool",
}


@dataclass
class _OpenCall:
    """A tool call, and whether it is without a result so far."""

    id: str
    name: str
    is_open: bool = True


class _OpenCalls:
    """The tool calls without a result so far, in order."""

    def __init__(self) -> None:
        self._all: deque[_OpenCall] = deque()
        self._by_id: defaultdict[str, deque[_OpenCall]] = defaultdict(deque)
        self._by_name: defaultdict[str, deque[_OpenCall]] = defaultdict(deque)

    def add(self, call: ToolCall) -> None:
        """Add a call."""
        opened = _OpenCall(call.id, call.function.name)
        for calls in (self._all, self._by_id[opened.id], self._by_name[opened.name]):
            calls.append(opened)

    def close(self, call_id: str | None, name: str | None) -> str | None:
        """Close the first open call with an id, or of a tool's name, or of all; return its id."""
        calls = self._by_name[name] if name else self._all
        if call_id:
            calls = self._by_id[call_id]
        while calls:
            call = calls.popleft()
            if call.is_open:
                call.is_open = False
                return call.id
        return None


def conversation(messages: Sequence[request_types.Message]) -> list[Message]:
    """Translate messages.

    A tool call without an id gets one from its position. A result without an id belongs to the
    first open call of its tool's name, or without a name to the first open call.

    Raises:
        InvalidRequest: a field is not allowed in a message of its role, or an image is invalid.
    """
    open_calls = _OpenCalls()
    return [_message(message, index, open_calls) for index, message in enumerate(messages)]


def image(encoded: str, where: str) -> ImagePart:
    """Turn a Base64 image into a message part.

    Args:
        encoded: the image in Base64, or a data URL.
        where: name of the field, for errors.
    """
    data = encoded.partition(",")[2] if encoded.startswith("data:") else encoded
    try:
        head = b64decode(data[:_HEAD], validate=True)
    except (NotBase64, ValueError):
        head = b""
    kind = next((kind for first, kind in _KINDS.items() if head.startswith(first)), None)
    if kind is None:
        raise InvalidRequest(
            f"Invalid '{where}': must be a PNG, JPEG, GIF or WebP image in Base64.", param=where
        )
    return ImagePart.placed(f"data:{kind};base64,{data}", where)


def content(text: str, images: Sequence[str] | None, where: str) -> Content:
    """Join a text and images to the content of a message.

    Args:
        text: the text; may be empty if there are images.
        images: images in Base64.
        where: name of the field with the images, for errors.
    """
    if not images:
        return text
    parts: list[TextPart | ImagePart] = [TextPart(text)] if text else []
    parts += [image(encoded, f"{where}[{number}]") for number, encoded in enumerate(images)]
    return parts


def _message(message: request_types.Message, index: int, open_calls: _OpenCalls) -> Message:
    where, role = f"messages[{index}]", message.role.lower()
    if role not in _ROLES:
        raise InvalidRequest(
            f"Invalid '{where}.role': must be one of {', '.join(_ROLES)}.", param=f"{where}.role"
        )
    for field, owner in _ROLE_OF_FIELD.items():
        if getattr(message, field) and role != owner:
            raise InvalidRequest(
                f"Invalid '{where}.{field}': only allowed in messages of role '{owner}'.",
                param=f"{where}.{field}",
            )
    parts = content(message.content or "", message.images, f"{where}.images")
    if role == "assistant":
        calls = _calls(message.tool_calls or (), index, open_calls)
        empty = not parts and bool(calls)
        return AssistantMessage(
            None if empty else parts,
            tool_calls=calls or None,
            reasoning_content=message.thinking or None,
        )
    if role == "tool":
        call_id = _close_call(message, index, open_calls)
        return ToolMessage(parts, call_id, message.tool_name or message.name or None)
    if role == "user":
        return UserMessage(parts)
    return DeveloperMessage(parts) if role == "developer" else SystemMessage(parts)


def _calls(
    calls: Sequence[request_types.ToolCall], index: int, open_calls: _OpenCalls
) -> list[ToolCall]:
    translated = []
    for number, call in enumerate(calls):
        function = call.function
        arguments = function.arguments
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments or {}).decode()
        translated.append(
            ToolCall(call.id or f"call_{index}_{number}", CalledFunction(function.name, arguments))
        )
        open_calls.add(translated[-1])
    return translated


def _close_call(message: request_types.Message, index: int, open_calls: _OpenCalls) -> str:
    """Close the open call that a tool message belongs to, and return its id."""
    closed = open_calls.close(message.tool_call_id, message.tool_name or message.name)
    return message.tool_call_id or closed or f"call_{index}"
