"""From a Responses request to a chat request, and from chat's names back to those of Responses."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import UNSET

from vllm_obtain.api.responses import asked as responses
from vllm_obtain.api.responses.asked import Asked
from vllm_obtain.api.responses.items import (
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    KeptItem,
    Message,
    Part,
    Reasoning,
    Refusal,
)
from vllm_obtain.api.responses.thoughts import unseal
from vllm_obtain.errors import InvalidRequest, ServiceError, UnsupportedParameter
from vllm_obtain.protocol import conversation as chat
from vllm_obtain.protocol import tools
from vllm_obtain.protocol.requests import ChatRequest, StreamOptions

_ROLES: dict[str, type[chat.SystemMessage | chat.DeveloperMessage | chat.UserMessage]] = {
    "system": chat.SystemMessage,
    "developer": chat.DeveloperMessage,
    "user": chat.UserMessage,
}

# What chat calls otherwise, or nests deeper.
_NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "include",
    "messages": "input",
    "tools": "tools",
    "tool_choice": "tool_choice",
}
# Levels that chat has and Responses has not.
_LEVELS = re.compile(r"\.(?:json_schema|function|allowed_tools)\b")


def to_chat(asked: Asked, items: Sequence[KeptItem], before: int = 0) -> ChatRequest:
    """Say in chat's words what a request asks for.

    Args:
        asked: the body.
        items: the whole conversation: what the previous response went on from, it itself, and
            the items of the body.
        before: how many of them the body does not have itself.

    Raises:
        InvalidRequest: the conversation cannot be right.
        UnsupportedParameter: an item holds what is not done here.
    """
    return ChatRequest(
        model=asked.model,
        messages=_messages(asked.instructions, items, before),
        stream=asked.stream,
        stream_options=_stream_options(asked),
        max_completion_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        logprobs=asked.includes_logprobs or None,
        top_logprobs=asked.top_logprobs or None,
        response_format=_format(asked.text),
        tools=[_tool(tool) for tool in asked.tools] if asked.tools else None,
        tool_choice=_choice(asked.tool_choice),
        parallel_tool_calls=asked.parallel_tool_calls,
        reasoning_effort=asked.reasoning.effort if asked.reasoning else None,
        metadata=asked.metadata,
        service_tier=asked.service_tier,
        safety_identifier=asked.safety_identifier,
        prompt_cache_key=asked.prompt_cache_key,
        user=asked.user,
    )


def own_words(error: ServiceError) -> ServiceError:
    """Say an error about a chat request in the words of the Responses API."""
    param = error.param or ""
    base = re.split(r"[.\[]", param, maxsplit=1)[0]
    if base not in _NAMES:
        return error
    # Messages are not numbered as the items are that they were made of.
    rest = "" if base == "messages" else _LEVELS.sub("", param[len(base) :])
    error.param = _NAMES[base] + rest
    error.message = error.message.replace(f"'{param}'", f"'{error.param}'")
    return error


def _stream_options(asked: Asked) -> StreamOptions | None:
    if asked.stream_options is None:
        return None
    return StreamOptions(include_obfuscation=asked.stream_options.include_obfuscation)


def _format(text: responses.TextConfig | None) -> tools.ResponseFormat | None:
    wanted = text.format if text else None
    if wanted is None:
        return None
    if isinstance(wanted, responses.PlainText):
        return tools.TextFormat()
    if isinstance(wanted, responses.JSONObject):
        return tools.ObjectFormat()
    return tools.SchemaFormat(
        tools.NamedSchema(wanted.name, wanted.schema, wanted.description, wanted.strict)
    )


def _tool(tool: responses.FunctionTool) -> tools.Tool:
    return tools.Tool(tools.Function(tool.name, tool.description, tool.parameters, tool.strict))


def _choice(choice: responses.ToolChoice | None) -> tools.ToolChoice | None:
    if isinstance(choice, responses.NamedFunction):
        return _named(choice)
    if isinstance(choice, responses.AllowedTools):
        return tools.AllowedTools(
            tools.Allowed(choice.mode, [_named(tool) for tool in choice.tools])
        )
    return choice


def _named(tool: responses.NamedFunction) -> tools.NamedTool:
    return tools.NamedTool(tools.FunctionName(tool.name))


def _messages(
    instructions: str | None, items: Sequence[KeptItem], before: int
) -> list[chat.Message]:
    made: list[chat.Message] = []
    if instructions:
        made.append(chat.SystemMessage(instructions))
    calls: set[str] = set()
    for number, item in enumerate(items, -before):
        where = f"input[{number}]" if number >= 0 else "previous_response_id"
        if isinstance(item, FunctionCallOutput):
            made.append(_output(item, calls, where))
        elif isinstance(item, Message) and item.role != "assistant":
            made.append(_ROLES[item.role](_content(item.content, f"{where}.content")))
        else:
            _add(_turn(made, item), item, where)
            if isinstance(item, FunctionCall):
                calls.add(item.call_id)
    for message in made:
        if isinstance(message, chat.AssistantMessage) and _is_fresh(message):
            message.content = ""  # reasoning alone, of an answer that was cut off in it
    if not made:
        raise InvalidRequest(
            "Missing required parameter: 'input'; send a text or a list of items.",
            param="input",
            code="missing_required_parameter",
        )
    return made


def _output(item: FunctionCallOutput, calls: set[str], where: str) -> chat.ToolMessage:
    if item.call_id not in calls:
        raise InvalidRequest(
            f"No tool call found for function call output with call_id '{item.call_id}'. Send "
            "the 'function_call' item before it, or its response as 'previous_response_id'.",
            param="input",
        )
    return chat.ToolMessage(_content(item.output, f"{where}.output"), item.call_id)


def _turn(
    made: list[chat.Message], item: Message | FunctionCall | Reasoning
) -> chat.AssistantMessage:
    """Find the message that an item is part of: reasoning, text and calls make one, in order."""
    last = made[-1] if made else None
    if isinstance(last, chat.AssistantMessage) and (
        isinstance(item, FunctionCall) or (isinstance(item, Message) and _is_fresh(last))
    ):
        return last
    turn = chat.AssistantMessage()
    made.append(turn)
    return turn


def _is_fresh(turn: chat.AssistantMessage) -> bool:
    return turn.content is None and turn.refusal is None and not turn.tool_calls


def _add(turn: chat.AssistantMessage, item: Message | FunctionCall | Reasoning, where: str) -> None:
    if isinstance(item, FunctionCall):
        function = chat.CalledFunction(item.name, item.arguments)
        turn.tool_calls = [*(turn.tool_calls or ()), chat.ToolCall(item.call_id, function)]
    elif isinstance(item, Reasoning):
        turn.reasoning_content = _thought(item) or None
    elif isinstance(item.content, str):
        turn.content = item.content
    else:
        refusals = [part.refusal for part in item.content if isinstance(part, Refusal)]
        turn.refusal = "".join(refusals) or None
        parts = [part for part in item.content if not isinstance(part, Refusal)]
        turn.content = _own_text(parts, f"{where}.content") if parts or not refusals else None


def _thought(item: Reasoning) -> str:
    if item.content:
        return "".join(part.text for part in item.content)
    if isinstance(item.encrypted_content, str):
        return unseal(item.encrypted_content, "input")
    return "\n\n".join(part.text for part in item.summary)


def _own_text(parts: Sequence[Part], where: str) -> chat.Content:
    """Join what the model said: its pieces follow each other without a break."""
    said = _content(parts, where)
    if isinstance(said, list) and all(isinstance(part, chat.TextPart) for part in said):
        return "".join(part.text for part in said if isinstance(part, chat.TextPart))
    return said


def _content(content: str | Sequence[Part], where: str) -> chat.Content:
    """Say parts in chat's words."""
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
            f"{where}.file_id", "Files are not kept here: send the image as a data URL."
        )
    if not isinstance(part.image_url, str):
        raise InvalidRequest(
            "An 'input_image' needs its 'image_url', a data or http URL.",
            param=f"{where}.image_url",
        )
    return chat.ImagePart.placed(part.image_url, f"{where}.image_url", part.detail)
