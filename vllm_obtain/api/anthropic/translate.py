"""A request of Anthropic's API as a chat request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vllm_obtain.api.anthropic.conversation import messages_of
from vllm_obtain.api.anthropic.requests import (
    AnyChoice,
    AutoChoice,
    MessagesRequest,
    NoChoice,
    PromptFields,
    Tool,
)
from vllm_obtain.api.anthropic.requests import ToolChoice as OneTool
from vllm_obtain.api.anthropic.thoughts import effort_of, unheard, without_old_thoughts
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.protocol.conversation import AssistantMessage, Message
from vllm_obtain.protocol.requests import ChatRequest
from vllm_obtain.protocol.tools import (
    Function,
    FunctionName,
    NamedSchema,
    NamedTool,
    SchemaFormat,
    ToolChoice,
)
from vllm_obtain.protocol.tools import Tool as ChatTool


class Translated(NamedTuple):
    """A chat request, and the wishes that are not in it, by their names in Anthropic's API."""

    request: ChatRequest
    ignored: tuple[str, ...]


def translate(asked: PromptFields, thinks: bool) -> Translated:
    """Translate a request.

    How hard to think is a wish: `budget_tokens` is an upper bound, and agents send it and `effort`
    to every model. One that does not think at all may leave it out, and the client is told.

    Args:
        asked: what the client sent.
        thinks: whether the model can think, and can be told how hard.

    Raises:
        InvalidRequest: what it says cannot be together.
    """
    messages = messages_of(without_old_thoughts(asked), asked.system)
    if not messages:
        raise InvalidRequest(
            "Invalid 'messages': there is nothing in them. Send a user message with some text.",
            param="messages",
        )
    request = ChatRequest(model=asked.model, messages=messages)
    if _is_prefill(messages):
        request.continue_final_message = True
    _set_tools(request, asked)
    _set_format(request, asked)
    if isinstance(asked, MessagesRequest):
        _set_sampling(request, asked)
    if thinks:
        request.reasoning_effort = effort_of(asked)
        return Translated(request, ())
    return Translated(request, unheard(asked))


def _is_prefill(messages: Sequence[Message]) -> bool:
    """Whether the model is to go on with what it has begun to say."""
    last = messages[-1]
    if not isinstance(last, AssistantMessage):
        return False
    if last.tool_calls:
        raise InvalidRequest(
            "Invalid 'messages': the last one calls tools. Send what they came to, as "
            "tool_result blocks in a user message.",
            param="messages",
        )
    return True


def _set_sampling(request: ChatRequest, asked: MessagesRequest) -> None:
    request.max_tokens = asked.max_tokens
    request.stream = asked.stream
    request.temperature, request.top_p = asked.temperature, asked.top_p
    request.top_k = asked.top_k
    request.stop = list(asked.stop_sequences) if asked.stop_sequences else None
    request.user = asked.metadata.user_id if asked.metadata else None


def _set_tools(request: ChatRequest, asked: PromptFields) -> None:
    choice, tools = asked.tool_choice, asked.tools
    if not tools:
        if isinstance(choice, AnyChoice | OneTool):
            raise InvalidRequest(
                "'tool_choice' asks for a tool, but there are none in 'tools'.",
                param="tool_choice",
            )
        return
    request.tools = [_tool(tool) for tool in tools]
    if choice is None:
        return
    request.tool_choice = _choice(choice, tools)
    if not isinstance(choice, NoChoice) and choice.disable_parallel_tool_use is not None:
        request.parallel_tool_calls = not choice.disable_parallel_tool_use


def _choice(
    choice: AutoChoice | AnyChoice | OneTool | NoChoice, tools: Sequence[Tool]
) -> ToolChoice:
    if isinstance(choice, AutoChoice):
        return "auto"
    if isinstance(choice, AnyChoice):
        return "required"
    if isinstance(choice, NoChoice):
        return "none"
    if choice.name not in {tool.name for tool in tools}:
        raise InvalidRequest(
            f"Invalid 'tool_choice.name': '{choice.name}' is not in 'tools'.",
            param="tool_choice.name",
        )
    return NamedTool(FunctionName(choice.name))


def _tool(tool: Tool) -> ChatTool:
    return ChatTool(Function(tool.name, tool.description, tool.input_schema, tool.strict))


def _set_format(request: ChatRequest, asked: PromptFields) -> None:
    """Hold the answer to a schema; `output_format` is the older name."""
    wanted = asked.output_config.format if asked.output_config else None
    wanted = wanted or asked.output_format
    if wanted is not None:
        named = NamedSchema("answer", schema=wanted.schema, strict=True)
        request.response_format = SchemaFormat(named)
