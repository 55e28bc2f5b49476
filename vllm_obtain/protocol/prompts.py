"""Messages as every chat template understands them, and how long they can be."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.protocol.requests import (
    AssistantMessage,
    ChatRequest,
    CompletionRequest,
    Content,
    ImagePart,
    Message,
)

_ROLES = {"DeveloperMessage": "system", "SystemMessage": "system", "UserMessage": "user"}

# What templates put around a message, and before the first one, in bytes; generous on purpose.
_PER_MESSAGE = 32
_PER_PROMPT = 256


def flatten(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Reduce messages to what templates know: role, text, and a name or reasoning if given.

    Text parts are joined by a line break, as vLLM does for templates that know only strings.

    Raises:
        InvalidRequest: a message has nothing to say.
        UnsupportedParameter: a message carries what a text model cannot take.
    """
    return [_flat(message, index) for index, message in enumerate(messages)]


def byte_length(request: ChatRequest | CompletionRequest) -> int:
    """Bound a prompt's length from above.

    Returns:
        A number of bytes; a tokenizer never makes more tokens than that.
    """
    if isinstance(request, CompletionRequest):
        prompt = request.prompt
        return len(prompt.encode()) + 8 if isinstance(prompt, str) else len(prompt) + 8
    texts = (text for message in request.messages for text in _all_texts(message))
    return sum(map(_utf8_length, texts)) + _PER_MESSAGE * len(request.messages) + _PER_PROMPT


def _flat(message: Message, index: int) -> dict[str, str]:
    where = f"messages[{index}]"
    if isinstance(message, AssistantMessage) and message.tool_calls:
        raise UnsupportedParameter(f"{where}.tool_calls", "Tool calls are not supported yet.")
    if isinstance(message.content, list):
        for number, part in enumerate(message.content):
            if isinstance(part, ImagePart):
                raise InvalidRequest(
                    "This model reads text only; leave the image out.",
                    param=f"{where}.content[{number}]",
                    code="unsupported_content",
                )
    content = message.content
    if isinstance(message, AssistantMessage) and content is None:
        content = message.refusal
    if content is None:
        raise InvalidRequest(f"Invalid '{where}.content': it is null.", param=f"{where}.content")
    role = _ROLES.get(type(message).__name__, "assistant")
    flat = {"role": role, "content": "\n".join(_texts(content))}
    if message.name is not None:
        flat["name"] = message.name
    if isinstance(message, AssistantMessage) and (thought := message.reasoning_content):
        flat["reasoning_content"] = thought
    return flat


def _all_texts(message: Message) -> list[str]:
    texts = [*_texts(message.content), message.name or ""]
    if isinstance(message, AssistantMessage):
        texts += [message.refusal or "", message.reasoning_content or ""]
    return texts


def _texts(content: Content | None) -> list[str]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    return [part.text for part in content if not isinstance(part, ImagePart)]


def _utf8_length(text: str) -> int:
    # ASCII is by far the most common and needs no copy.
    return len(text) if text.isascii() else len(text.encode())
