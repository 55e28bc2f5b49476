"""Translates requests of the Anthropic API to chat requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.gateway.anthropic.messages import messages_of
from vllm_obtain.gateway.anthropic.request_types import (
    AnyChoice,
    AutoChoice,
    MessagesRequest,
    NoChoice,
    PromptFields,
    Tool,
)
from vllm_obtain.gateway.anthropic.request_types import ToolChoice as NamedToolChoice
from vllm_obtain.gateway.anthropic.response_types import THREAD
from vllm_obtain.gateway.anthropic.thinking import (
    clear_old_reasoning,
    effort_of,
    ignored_effort_fields,
)
from vllm_obtain.protocol.messages import AssistantMessage, Message
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
    """A chat request, and the names of the Anthropic fields that it ignores."""

    request: ChatRequest
    ignored: tuple[str, ...]


def translate(body: PromptFields, takes_effort: bool) -> Translated:
    """Translate a request.

    Agents send `budget_tokens` and `effort` to every model, so a model without adjustable
    reasoning ignores them. The response names the ignored fields.

    Args:
        body: the body of the HTTP request.
        takes_effort: whether the model has adjustable reasoning.

    Raises:
        InvalidRequest: the fields contradict each other.
        UnsupportedParameter: the request continues a thread.
    """
    if body.thread is not None:
        raise UnsupportedParameter(
            THREAD, "Threads are not stored. Send the whole conversation as 'messages'."
        )
    messages = messages_of(clear_old_reasoning(body), body.system)
    if not messages:
        raise InvalidRequest(
            "Invalid 'messages': they are empty. Send a user message with text.",
            param="messages",
        )
    request = ChatRequest(model=body.model, messages=messages)
    if _is_prefill(messages):
        request.continue_final_message = True
    _set_tools(request, body)
    _set_format(request, body)
    if isinstance(body, MessagesRequest):
        _set_sampling(request, body)
    if takes_effort:
        request.reasoning_effort = effort_of(body)
        return Translated(request, ())
    return Translated(request, ignored_effort_fields(body))


def _is_prefill(messages: Sequence[Message]) -> bool:
    """Whether the model continues the last message."""
    last = messages[-1]
    if not isinstance(last, AssistantMessage):
        return False
    if last.tool_calls:
        raise InvalidRequest(
            "Invalid 'messages': the last message calls tools. Send their results as "
            "tool_result blocks in a user message.",
            param="messages",
        )
    return True


def _set_sampling(request: ChatRequest, body: MessagesRequest) -> None:
    request.max_tokens = body.max_tokens
    request.stream = body.stream
    request.temperature, request.top_p = body.temperature, body.top_p
    request.top_k = body.top_k
    request.stop = list(body.stop_sequences) if body.stop_sequences else None
    request.user = body.metadata.user_id if body.metadata else None


def _set_tools(request: ChatRequest, body: PromptFields) -> None:
    choice, tools = body.tool_choice, body.tools
    if not tools:
        if isinstance(choice, AnyChoice | NamedToolChoice):
            raise InvalidRequest(
                "'tool_choice' requires a tool, but 'tools' is empty. Define the tool.",
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
    choice: AutoChoice | AnyChoice | NamedToolChoice | NoChoice, tools: Sequence[Tool]
) -> ToolChoice:
    if isinstance(choice, AutoChoice):
        return "auto"
    if isinstance(choice, AnyChoice):
        return "required"
    if isinstance(choice, NoChoice):
        return "none"
    if choice.name not in {tool.name for tool in tools}:
        raise InvalidRequest(
            f"Invalid 'tool_choice.name': '{choice.name}' is not in 'tools'. Name one of them.",
            param="tool_choice.name",
        )
    return NamedTool(FunctionName(choice.name))


def _tool(tool: Tool) -> ChatTool:
    return ChatTool(Function(tool.name, tool.description, tool.input_schema, tool.strict))


def _set_format(request: ChatRequest, body: PromptFields) -> None:
    """Constrain the completion to a JSON Schema; `output_format` is the older field."""
    schema_format = body.output_config.format if body.output_config else None
    schema_format = schema_format or body.output_format
    if schema_format is not None:
        named = NamedSchema("answer", schema=schema_format.schema, strict=True)
        request.response_format = SchemaFormat(named)
