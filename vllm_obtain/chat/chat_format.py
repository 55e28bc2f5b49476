"""The chat format of a model, derived once from its chat template, and messages in that format."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vllm_obtain.chat import sandbox, tool_prompt
from vllm_obtain.chat.chat_template import CHATML, TemplateError
from vllm_obtain.chat.reasoning_tags import ReasoningTags
from vllm_obtain.chat.sandbox import LimitExceeded, Refused
from vllm_obtain.chat.template_features import TemplateLimit, template_features
from vllm_obtain.chat.tool_call_format import ToolCallFormat
from vllm_obtain.errors import ServiceError
from vllm_obtain.models import Model
from vllm_obtain.models.chat_tokens import ChatTokens, chat_tokens
from vllm_obtain.models.model import Format
from vllm_obtain.protocol.engine_request import MARK
from vllm_obtain.protocol.messages import (
    AssistantMessage,
    DeveloperMessage,
    ImagePart,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
)
from vllm_obtain.protocol.volatile_lines import strip_volatile_content

# Name of the argument that holds a text that is no JSON object.
UNPARSED = "unparsed_arguments"
_ROLES = {"DeveloperMessage": "system", "SystemMessage": "system", "UserMessage": "user"}


@dataclass(frozen=True)
class ChatFormat:
    """The chat format of a model.

    Args:
        model: name of the model, for errors.
        template: Jinja source.
        in_parts: whether the template supports contents as lists of parts only.
        tokens: the tokens around a prompt.
        has_tool_template: whether the template supports tools in a format that we can parse.
        tool_call_format: its format of tool calls; ours if the template has none.
        marks: the tags around its reasoning, None if it does not reason.
        assumed: whether its files have no template, so that ChatML is used.
        supports_system: whether the template accepts a system message.
        placeholder: what the template writes for an image, None if it does not support images.
        effort_variables: the variables of the template that set the reasoning effort.
    """

    model: str
    template: str
    in_parts: bool
    tokens: ChatTokens
    has_tool_template: bool
    tool_call_format: ToolCallFormat
    marks: ReasoningTags | None
    assumed: bool
    supports_system: bool
    placeholder: str | None
    effort_variables: tuple[str, ...]

    @property
    def takes_effort(self) -> bool:
        """Whether the model's reasoning effort can be set."""
        return bool(self.effort_variables)

    def prompt(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
        add_generation_prompt: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Render a chat as a prompt, in the sandbox; arguments as for `ChatTemplate.render`.

        Raises:
            TemplateError: the template rejects this chat, or exceeds a limit.
            ServiceError, ClientDisconnected: as in `sandbox.run`.
        """
        if not self.has_tool_template and (tools or _have_calls(messages)):
            messages = tool_prompt.with_tool_prompt(messages, tools, self.supports_system)
            tools = ()
        tokens = self.tokens
        try:
            text: str = sandbox.run(
                "render",
                self.template,
                tokens.bos,
                tokens.eos,
                self.in_parts,
                messages,
                tools,
                add_generation_prompt,
                template_kwargs or {},
            )
        except Refused as error:
            raise TemplateError(error.message, param=error.param) from None
        except LimitExceeded as error:
            raise TemplateLimit(self.model, error.reason) from None
        if tokens.adds_bos and not text.startswith(tokens.bos):
            return tokens.bos + text
        return text


def _have_calls(messages: Sequence[dict[str, Any]]) -> bool:
    return any(message["role"] == "tool" or "tool_calls" in message for message in messages)


def chat_format(model: Model, file: Path | None = None) -> ChatFormat:
    """Return the chat format of a model.

    Args:
        model: the model.
        file: a template that replaces the model's own; read once.

    Raises:
        TemplateError: the template is broken, cannot be read, or exceeds a limit.
        ServiceError, ClientDisconnected: as in `sandbox.run`.
    """
    return _chat_format(model.name, model.path, model.format, model.revision, file)


@functools.lru_cache(maxsize=64)
def _chat_format(
    name: str, path: Path, kind: Format, revision: str, file: Path | None
) -> ChatFormat:
    tokens = chat_tokens(path, kind, revision)
    return derive(tokens, None if file is None else _read(file), name)


@functools.lru_cache(maxsize=64)
def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"The chat template {file.name} cannot be read: {error}.") from None


def capabilities(model: Model, file: Path | None = None) -> dict[str, Any] | None:
    """Return the capabilities that a model's chat template has.

    Returns:
        None if the template is broken, or could not be examined now.
    """
    try:
        known = _capabilities(model.name, model.path, model.format, model.revision, file)
    except ServiceError:
        # Not remembered: a limit was exceeded, or the machine is busy.
        return None
    return None if known is None else {**known, "vision": model.supports_images}


# Far more than the formats that are kept: all models are listed, few are used.
@functools.lru_cache(maxsize=16_384)
def _capabilities(
    name: str, path: Path, kind: Format, revision: str, file: Path | None
) -> dict[str, Any] | None:
    try:
        tokens = chat_tokens(path, kind, revision)
        derived = derive(tokens, None if file is None else _read(file), name)
    except TemplateLimit:
        raise
    except TemplateError:
        return None
    return {
        "chat_template": "assumed" if derived.assumed else "set" if file else "own",
        "tools": "template" if derived.has_tool_template else "prompt",
        "reasoning": derived.marks is not None,
        "structured_output": True,
    }


def derive(tokens: ChatTokens, override: str | None = None, model: str = "") -> ChatFormat:
    """Derive a chat format.

    Args:
        tokens: the chat template and the tokens of a model.
        override: a template that replaces the model's own.
        model: name of the model, for errors.

    Raises:
        TemplateError: the template is broken, or exceeds a limit.
        ServiceError, ClientDisconnected: as in `sandbox.run`.
    """
    source = override or tokens.template
    features = template_features(model, source or CHATML, tokens.bos, tokens.eos)
    own_format = features.tool_calls
    if own_format and any(token in own_format.marks for token in tokens.control):
        # Engines do not output special tokens, so such calls cannot be parsed. In a grammar,
        # special tokens terminate constrained decoding.
        own_format = None
    tags = features.reasoning
    if tags and tokens.control & {tags.open, tags.close}:
        tags = None
    return ChatFormat(
        model=model,
        template=source or CHATML,
        in_parts=features.in_parts,
        tokens=tokens,
        has_tool_template=own_format is not None,
        tool_call_format=own_format or tool_prompt.FORMAT,
        marks=tags,
        assumed=source is None,
        supports_system=features.supports_system,
        placeholder=features.placeholder,
        effort_variables=features.effort_variables,
    )


def flatten(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Convert messages to what templates support: role, text, tool calls, name and reasoning.

    Text parts are joined by a line break, as vLLM does for templates that support only strings.
    MARK stands for an image.
    """
    return [_flat(message, index == 0) for index, message in enumerate(messages)]


def _flat(message: Message, is_first: bool) -> dict[str, Any]:
    flat: dict[str, Any] = {"role": _role(message), "content": _content(message, is_first)}
    if message.name is not None:
        flat["name"] = message.name
    if isinstance(message, ToolMessage):
        flat["tool_call_id"] = message.tool_call_id
    if isinstance(message, AssistantMessage):
        if reasoning := message.reasoning_content:
            flat["reasoning_content"] = reasoning
        if message.tool_calls:
            flat["tool_calls"] = [_call(call) for call in message.tool_calls]
    return flat


def _role(message: Message) -> str:
    if isinstance(message, ToolMessage):
        return "tool"
    return _ROLES.get(type(message).__name__, "assistant")


def _content(message: Message, is_first: bool) -> str:
    content = message.content
    if is_first and isinstance(message, SystemMessage | DeveloperMessage):
        content = strip_volatile_content(message.content)
    if content is None:
        return (message.refusal if isinstance(message, AssistantMessage) else None) or ""
    return content if isinstance(content, str) else _joined(content)


def _joined(parts: Sequence[TextPart | ImagePart]) -> str:
    """Join parts. As in llama.cpp, there are no line breaks around an image."""
    text, behind_text = "", False
    for part in parts:
        is_text = isinstance(part, TextPart)
        text += "\n" if is_text and behind_text else ""
        text += part.text if isinstance(part, TextPart) else MARK
        behind_text = is_text
    return text


def _call(call: ToolCall) -> dict[str, Any]:
    """Convert a call; templates expect the arguments as an object, not as a string."""
    arguments = call.function.arguments or {}
    if isinstance(arguments, str):
        try:
            decoded = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            decoded = None
        # `max_tokens` may have cut off a call of the model that clients send back.
        arguments = decoded if isinstance(decoded, dict) else {UNPARSED: arguments}
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}
