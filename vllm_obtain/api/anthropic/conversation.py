"""Anthropic's turns as messages that chat templates know.

Templates are stricter than Anthropic's API: system messages stand at the beginning, users and
models take turns, and what a tool came to is a message of its own, right behind the call.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vllm_obtain.api.anthropic.blocks import (
    AssistantTurn,
    Base64Source,
    DocumentBlock,
    ImageBlock,
    ResultBlock,
    SystemTurn,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
    UserTurn,
)
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.protocol.conversation import (
    AssistantMessage,
    CalledFunction,
    Content,
    ImagePart,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from vllm_obtain.protocol.moving import steady

Parts = list[TextPart | ImagePart]


def messages_of(turns: Sequence[Turn], system: str | Sequence[TextBlock] | None) -> list[Message]:
    """Translate a conversation.

    Args:
        turns: at least one.
        system: the system prompt; what moves in it from request to request is left out.

    Raises:
        InvalidRequest: a result of a tool has no call.
    """
    said = _Conversation()
    if system:
        texts = [system] if isinstance(system, str) else [block.text for block in system]
        said.instruct([steady(text) for text in texts])
    for number, turn in enumerate(turns):
        if isinstance(turn, UserTurn):
            said.user(turn, f"messages[{number}].content")
        elif isinstance(turn, AssistantTurn):
            said.assistant(turn)
        else:
            said.remind(turn)
    return said.messages


class _Conversation:
    """The messages so far, and the calls in them."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._called: dict[str, str] = {}  # names of tools, by the id of the call

    def instruct(self, texts: list[str]) -> None:
        """Begin with a system prompt, or add to the one there is."""
        text = "\n".join(text for text in texts if text)
        first = self.messages[0] if self.messages else None
        if not text:
            return
        if isinstance(first, SystemMessage):
            first.content = f"{first.content}\n{text}"
        else:
            self.messages.insert(0, SystemMessage(text))

    def user(self, turn: UserTurn, where: str) -> None:
        """Add what tools came to, and then what the user said."""
        if isinstance(turn.content, str):
            self._say([TextPart(turn.content)])
            return
        parts: Parts = []
        for number, block in enumerate(turn.content):
            if isinstance(block, ToolResultBlock):
                self._result(block, f"{where}[{number}]")
            else:
                parts.append(_part(block, f"{where}[{number}]"))
        if parts:
            self._say(parts)

    def assistant(self, turn: AssistantTurn) -> None:
        """Add what the model said; turns of its that follow each other are one."""
        blocks = [TextBlock(turn.content)] if isinstance(turn.content, str) else turn.content
        last = self.messages[-1] if self.messages else None
        if not isinstance(last, AssistantMessage):
            last = AssistantMessage("")
            self.messages.append(last)
        for block in blocks:
            if isinstance(block, TextBlock):
                last.content = f"{last.content}{block.text}"
            elif isinstance(block, ThinkingBlock):
                last.reasoning_content = (last.reasoning_content or "") + block.thinking or None
            elif isinstance(block, ToolUseBlock):
                self._called[block.id] = block.name
                arguments = msgspec.json.encode(block.input).decode()
                call = ToolCall(block.id, CalledFunction(block.name, arguments))
                last.tool_calls = [*(last.tool_calls or ()), call]
            # What only Anthropic can read tells a model here nothing.

    def remind(self, turn: SystemTurn) -> None:
        """Add instructions that came up later.

        They stay where they were said, so that the beginning of the prompt does not change, but
        within a user's turn: most templates refuse system messages that are not the first.
        """
        blocks = turn.content
        texts = [blocks] if isinstance(blocks, str) else [block.text for block in blocks]
        texts = [text for text in texts if text]
        if not any(isinstance(message, UserMessage | ToolMessage) for message in self.messages):
            self.instruct(texts)
            return
        for text in texts:
            self._say([TextPart(f"<system-reminder>\n{text}\n</system-reminder>")])

    def _say(self, parts: Parts) -> None:
        """Add parts to the user's message, one that is not finished or a new one."""
        last = self.messages[-1] if self.messages else None
        if isinstance(last, UserMessage):
            last.content = _content([*_parts(last.content), *parts])
        else:
            self.messages.append(UserMessage(_content(parts)))

    def _result(self, block: ToolResultBlock, where: str) -> None:
        name = self._called.get(block.tool_use_id)
        if name is None:
            raise InvalidRequest(
                f"Invalid '{where}.tool_use_id': no tool_use block before it has the id "
                f"'{block.tool_use_id}'.",
                param=f"{where}.tool_use_id",
            )
        given = block.content or []
        parts: Parts
        if isinstance(given, str):
            parts = [TextPart(given)]
        else:
            inside = f"{where}.content"
            parts = [_part(each, f"{inside}[{number}]") for number, each in enumerate(given)]
        if block.is_error:
            parts = _marked(parts)
        self.messages.append(ToolMessage(_content(parts), block.tool_use_id, name))


def _marked(parts: Parts) -> Parts:
    """Say that a tool failed, for templates have no word for it; unless its text does already."""
    first = parts[0] if parts else None
    if isinstance(first, TextPart) and "error" in first.text[:64].lower():
        return parts
    return [TextPart("Error:"), *parts]


def _part(block: ResultBlock, where: str) -> TextPart | ImagePart:
    if isinstance(block, TextBlock):
        return TextPart(block.text)
    if isinstance(block, DocumentBlock):
        heads = [text for text in (block.title, block.context) if text]
        return TextPart("\n".join([*heads, block.source.data]))
    return ImagePart.placed(_url(block), f"{where}.source")


def _url(block: ImageBlock) -> str:
    source = block.source
    if isinstance(source, Base64Source):
        return f"data:{source.media_type};base64,{source.data}"
    return source.url


def _parts(content: Content) -> Parts:
    return [TextPart(content)] if isinstance(content, str) else list(content)


def _content(parts: Parts) -> Content:
    """Shape content; a single text needs no list."""
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return parts
