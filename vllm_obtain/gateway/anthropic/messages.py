"""Translates Anthropic's turns to chat messages.

Chat templates are stricter than Anthropic's API: system messages come first, user and assistant
messages alternate, and a tool result is a message of its own, directly after the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.gateway.anthropic.content_blocks import (
    AssistantTurn,
    Base64Source,
    DocumentBlock,
    ImageBlock,
    ResultBlock,
    SystemTurn,
    TextBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
    UserTurn,
)
from vllm_obtain.protocol.messages import (
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
from vllm_obtain.protocol.volatile_lines import strip_volatile_lines

Parts = list[TextPart | ImagePart]


def messages_of(turns: Sequence[Turn], system: str | Sequence[TextBlock] | None) -> list[Message]:
    """Translate a conversation.

    Args:
        turns: at least one turn.
        system: the system prompt; its volatile lines are removed.

    Raises:
        InvalidRequest: a tool result has no tool call.
    """
    conversation = _Conversation()
    if system:
        texts = [system] if isinstance(system, str) else [block.text for block in system]
        conversation.add_system([strip_volatile_lines(text) for text in texts])
    for number, turn in enumerate(turns):
        if isinstance(turn, UserTurn):
            conversation.add_user(turn, f"messages[{number}].content")
        elif isinstance(turn, AssistantTurn):
            conversation.add_assistant(turn)
        else:
            conversation.add_reminder(turn)
    return conversation.finish()


class _Answer(NamedTuple):
    """A message of the assistant, and its texts, which are joined at the end."""

    message: AssistantMessage
    texts: list[str]
    thoughts: list[str]


class _Conversation:
    """Builds the messages, and records the names of the tool calls in them."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._system: list[str] = []
        self._answers: list[_Answer] = []
        self._has_user = False
        self._tool_names: dict[str, str] = {}  # by call id

    def finish(self) -> list[Message]:
        """Return the messages."""
        for message, texts, thoughts in self._answers:
            message.content = "".join(texts)
            message.reasoning_content = "".join(thoughts) or None
        if self._system:
            self._messages.insert(0, SystemMessage("\n".join(self._system)))
        return self._messages

    def add_system(self, texts: list[str]) -> None:
        self._system += [text for text in texts if text]

    def add_user(self, turn: UserTurn, where: str) -> None:
        """Add tool results, then the user's content."""
        if isinstance(turn.content, str):
            self._add_to_user([TextPart(turn.content)])
            return
        parts: Parts = []
        for number, block in enumerate(turn.content):
            if isinstance(block, ToolResultBlock):
                self._result(block, f"{where}[{number}]")
            else:
                parts.append(_part(block, f"{where}[{number}]"))
        if parts:
            self._add_to_user(parts)

    def add_assistant(self, turn: AssistantTurn) -> None:
        """Add a turn of the assistant; consecutive turns are merged."""
        blocks = [TextBlock(turn.content)] if isinstance(turn.content, str) else turn.content
        last = self._messages[-1] if self._messages else None
        if not isinstance(last, AssistantMessage):
            last = AssistantMessage("")
            self._messages.append(last)
            self._answers.append(_Answer(last, [], []))
        _, texts, thoughts = self._answers[-1]
        for block in blocks:
            if isinstance(block, TextBlock):
                texts.append(block.text)
            elif isinstance(block, ThinkingBlock):
                thoughts.append(block.thinking)
            elif isinstance(block, ToolUseBlock):
                self._tool_names[block.id] = block.name
                arguments = msgspec.json.encode(block.input).decode()
                if last.tool_calls is None:
                    last.tool_calls = []
                last.tool_calls.append(ToolCall(block.id, CalledFunction(block.name, arguments)))
            # Redacted thinking is unreadable here.

    def add_reminder(self, turn: SystemTurn) -> None:
        """Add instructions that appear within the conversation.

        They keep their position, so that the prompt's prefix stays cacheable. They become part
        of a user message, because most chat templates reject system messages after the first.
        """
        blocks = turn.content
        texts = [blocks] if isinstance(blocks, str) else [block.text for block in blocks]
        texts = [text for text in texts if text]
        if not self._has_user:
            self.add_system(texts)
            return
        for text in texts:
            self._add_to_user([TextPart(f"<system-reminder>\n{text}\n</system-reminder>")])

    def _add_to_user(self, parts: Parts) -> None:
        """Append parts to the last message if it is the user's, else to a new one."""
        self._has_user = True
        last = self._messages[-1] if self._messages else None
        if not isinstance(last, UserMessage):
            self._messages.append(UserMessage(_content(parts)))
            return
        if isinstance(last.content, str):
            last.content = [TextPart(last.content)]
        last.content += parts

    def _result(self, block: ToolResultBlock, where: str) -> None:
        name = self._tool_names.get(block.tool_use_id)
        if name is None:
            raise InvalidRequest(
                f"Invalid '{where}.tool_use_id': no earlier tool_use block has the id "
                f"'{block.tool_use_id}'. Send the tool_use block before its result.",
                param=f"{where}.tool_use_id",
            )
        content = block.content or []
        parts: Parts
        if isinstance(content, str):
            parts = [TextPart(content)]
        else:
            inside = f"{where}.content"
            parts = [_part(part, f"{inside}[{number}]") for number, part in enumerate(content)]
        if block.is_error:
            parts = _mark_error(parts)
        self._has_user = True
        self._messages.append(ToolMessage(_content(parts), block.tool_use_id, name))


def _mark_error(parts: Parts) -> Parts:
    """Mark a tool result as an error in its text: chat templates have no field for it."""
    first = parts[0] if parts else None
    if isinstance(first, TextPart) and "error" in first.text[:64].lower():
        return parts
    return [TextPart("Error:"), *parts]


def _part(block: ResultBlock, where: str) -> TextPart | ImagePart:
    if isinstance(block, TextBlock):
        return TextPart(block.text)
    if isinstance(block, DocumentBlock):
        headings = [text for text in (block.title, block.context) if text]
        return TextPart("\n".join([*headings, block.source.data]))
    if isinstance(block, ToolReferenceBlock):
        # All tools are in the prompt, also those that the client defers.
        return TextPart(f"The tool '{block.tool_name}' is available.")
    return ImagePart.placed(_url(block), f"{where}.source")


def _url(block: ImageBlock) -> str:
    source = block.source
    if isinstance(source, Base64Source):
        return f"data:{source.media_type};base64,{source.data}"
    return source.url


def _content(parts: Parts) -> Content:
    """Return the parts as content; a single text part becomes a string."""
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return parts
