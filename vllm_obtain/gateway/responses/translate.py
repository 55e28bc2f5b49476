"""Translates Responses requests to chat requests, and chat errors to Responses field names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import UNSET

from vllm_obtain.errors import InvalidRequest, ServiceError, UnsupportedParameter
from vllm_obtain.gateway.responses import request_types as responses
from vllm_obtain.gateway.responses.encrypted_reasoning import unseal
from vllm_obtain.gateway.responses.items import (
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    KeptItem,
    Message,
    Part,
    Reasoning,
    Refusal,
)
from vllm_obtain.gateway.responses.request_types import ResponsesRequest, qualified
from vllm_obtain.protocol import messages as chat
from vllm_obtain.protocol import tools
from vllm_obtain.protocol.requests import ChatRequest, StreamOptions

_ROLES: dict[str, type[chat.SystemMessage | chat.DeveloperMessage | chat.UserMessage]] = {
    "system": chat.SystemMessage,
    "developer": chat.DeveloperMessage,
    "user": chat.UserMessage,
}

# Chat fields by their Responses name, where the two differ.
NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "include",
    "messages": "input",
    "tools": "tools",
    "tool_choice": "tool_choice",
}
# Path segments that exist only in chat requests.
_LEVELS = re.compile(r"\.(?:json_schema|function|allowed_tools)\b")


def to_chat(request: ResponsesRequest, items: Sequence[KeptItem], before: int = 0) -> ChatRequest:
    """Translate a request to a chat request.

    Args:
        request: the body.
        items: the conversation: the items of stored responses, then those of the body.
        before: number of items from stored responses.

    Raises:
        InvalidRequest: the conversation is invalid.
        UnsupportedParameter: an item uses an unsupported feature.
    """
    return ChatRequest(
        model=request.model,
        messages=_messages(request.instructions, items, before),
        stream=request.stream,
        stream_options=_stream_options(request),
        max_completion_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        logprobs=request.includes_logprobs or None,
        top_logprobs=request.top_logprobs or None,
        response_format=_format(request.text),
        tools=[each for tool in request.tools or () for each in _functions(tool)] or None,
        tool_choice=_choice(request),
        parallel_tool_calls=request.parallel_tool_calls,
        reasoning_effort=request.reasoning.effort if request.reasoning else None,
        metadata=request.metadata,
        service_tier=request.service_tier,
        safety_identifier=request.safety_identifier,
        prompt_cache_key=request.prompt_cache_key,
        user=request.user,
    )


def to_responses_error(error: ServiceError) -> ServiceError:
    """Rename the chat fields of an error to those of the Responses API."""
    param = error.param or ""
    base = re.split(r"[.\[]", param, maxsplit=1)[0]
    if base not in NAMES:
        return error
    # The index of a message differs from the index of its item.
    rest = "" if base == "messages" else _LEVELS.sub("", param[len(base) :])
    error.param = NAMES[base] + rest
    error.message = error.message.replace(f"'{param}'", f"'{error.param}'")
    return error


def _stream_options(request: ResponsesRequest) -> StreamOptions | None:
    if request.stream_options is None:
        return None
    return StreamOptions(include_obfuscation=request.stream_options.include_obfuscation)


def _format(text: responses.TextConfig | None) -> tools.ResponseFormat | None:
    config = text.format if text else None
    if config is None:
        return None
    if isinstance(config, responses.PlainText):
        return tools.TextFormat()
    if isinstance(config, responses.JSONObject):
        return tools.ObjectFormat()
    return tools.SchemaFormat(
        tools.NamedSchema(config.name, config.schema, config.description, config.strict)
    )


def _functions(tool: responses.Tool) -> list[tools.Tool]:
    if isinstance(tool, responses.FunctionTool):
        return [_function(tool, tool.name)]
    return [_function(each, qualified(tool.name, each.name)) for each in tool.tools]


def _function(tool: responses.FunctionTool, name: str) -> tools.Tool:
    return tools.Tool(tools.Function(name, tool.description, tool.parameters, tool.strict))


def _choice(request: ResponsesRequest) -> tools.ToolChoice | None:
    choice = request.tool_choice
    if isinstance(choice, responses.NamedFunction):
        return _named(choice, request)
    if isinstance(choice, responses.AllowedTools):
        return tools.AllowedTools(
            tools.Allowed(choice.mode, [_named(tool, request) for tool in choice.tools])
        )
    return choice


def _named(choice: responses.NamedFunction, request: ResponsesRequest) -> tools.NamedTool:
    """Name a function as the model does; one of a namespace may be named without it."""
    name = choice.name
    if all(tool.name != name for tool in request.tools or ()):
        own_names = (full for full, (_, own) in request.namespaced.items() if own == name)
        name = next(own_names, name)
    return tools.NamedTool(tools.FunctionName(name))


def _messages(
    instructions: str | None, items: Sequence[KeptItem], before: int
) -> list[chat.Message]:
    messages: list[chat.Message] = []
    if instructions:
        messages.append(chat.SystemMessage(instructions))
    calls: set[str] = set()
    for number, item in enumerate(items, -before):
        where = f"input[{number}]" if number >= 0 else "previous_response_id"
        if isinstance(item, FunctionCallOutput):
            messages.append(_output(item, calls, where))
        elif isinstance(item, Message) and item.role != "assistant":
            messages.append(_ROLES[item.role](_content(item.content, f"{where}.content")))
        else:
            _add(_turn(messages, item), item, where)
            if isinstance(item, FunctionCall):
                calls.add(item.call_id)
    for message in messages:
        if isinstance(message, chat.AssistantMessage) and _is_empty(message):
            message.content = ""  # a completion that was truncated while reasoning
    if not messages:
        raise InvalidRequest(
            "Missing required parameter: 'input'. Send a text or a list of items.",
            param="input",
            code="missing_required_parameter",
        )
    return messages


def _output(item: FunctionCallOutput, calls: set[str], where: str) -> chat.ToolMessage:
    if item.call_id not in calls:
        raise InvalidRequest(
            f"No tool call found for function call output with call_id '{item.call_id}'. Send "
            "the 'function_call' item before it, or its response as 'previous_response_id'.",
            param="input",
        )
    return chat.ToolMessage(_content(item.output, f"{where}.output"), item.call_id)


def _turn(
    messages: list[chat.Message], item: Message | FunctionCall | Reasoning
) -> chat.AssistantMessage:
    """Return the message of an item: reasoning, text and calls, in this order, share one."""
    last = messages[-1] if messages else None
    if isinstance(last, chat.AssistantMessage) and (
        isinstance(item, FunctionCall) or (isinstance(item, Message) and _is_empty(last))
    ):
        return last
    turn = chat.AssistantMessage()
    messages.append(turn)
    return turn


def _is_empty(turn: chat.AssistantMessage) -> bool:
    return turn.content is None and turn.refusal is None and not turn.tool_calls


def _add(turn: chat.AssistantMessage, item: Message | FunctionCall | Reasoning, where: str) -> None:
    if isinstance(item, FunctionCall):
        name = item.name if not item.namespace else qualified(item.namespace, item.name)
        function = chat.CalledFunction(name, item.arguments)
        if turn.tool_calls is None:
            turn.tool_calls = []
        turn.tool_calls.append(chat.ToolCall(item.call_id, function))
    elif isinstance(item, Reasoning):
        turn.reasoning_content = _thought(item) or None
    elif isinstance(item.content, str):
        turn.content = item.content
    else:
        refusals = [part.refusal for part in item.content if isinstance(part, Refusal)]
        turn.refusal = "".join(refusals) or None
        parts = [part for part in item.content if not isinstance(part, Refusal)]
        turn.content = _assistant_text(parts, f"{where}.content") if parts or not refusals else None


def _thought(item: Reasoning) -> str:
    if item.content:
        return "".join(part.text for part in item.content)
    if isinstance(item.encrypted_content, str):
        return unseal(item.encrypted_content, "input")
    return "\n\n".join(part.text for part in item.summary)


def _assistant_text(parts: Sequence[Part], where: str) -> chat.Content:
    """Join the text parts of a completion, without a separator."""
    content = _content(parts, where)
    if isinstance(content, list) and all(isinstance(part, chat.TextPart) for part in content):
        return "".join(part.text for part in content if isinstance(part, chat.TextPart))
    return content


def _content(content: str | Sequence[Part], where: str) -> chat.Content:
    if isinstance(content, str):
        return content
    parts: list[chat.TextPart | chat.ImagePart] = []
    for number, part in enumerate(content):
        if isinstance(part, InputImage):
            parts.append(_image(part, f"{where}[{number}]"))
        elif isinstance(part, Refusal):
            parts.append(chat.TextPart(part.refusal))
        else:
            parts.append(chat.TextPart(part.text))
    if len(parts) == 1 and isinstance(parts[0], chat.TextPart):
        return parts[0].text
    return parts or ""


def _image(part: InputImage, where: str) -> chat.ImagePart:
    if part.file_id is not UNSET:
        raise UnsupportedParameter(
            f"{where}.file_id", "File uploads are not supported. Send the image as a data URL."
        )
    if not isinstance(part.image_url, str):
        raise InvalidRequest(
            "An 'input_image' requires 'image_url', a data or http URL.",
            param=f"{where}.image_url",
        )
    return chat.ImagePart.placed(part.image_url, f"{where}.image_url", part.detail)
