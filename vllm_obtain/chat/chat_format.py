"""The chat format of a model, derived once from its chat template."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_obtain.chat import tool_prompt
from vllm_obtain.chat.chat_template import CHATML, ChatTemplate, TemplateError
from vllm_obtain.chat.reasoning_tags import ReasoningTags, reasoning_tags
from vllm_obtain.chat.tool_call_format import ToolCallFormat, call_format, takes_system, takes_tools
from vllm_obtain.models import Model
from vllm_obtain.models.chat_tokens import ChatTokens, chat_tokens
from vllm_obtain.models.model import Format


@dataclass(frozen=True)
class ChatFormat:
    """The chat format of a model.

    Args:
        template: renders its prompts.
        tokens: the tokens around a prompt.
        has_tool_template: whether the template supports tools in a format that we can parse.
        tool_call_format: its format of tool calls; ours if the template has none.
        marks: the tags around its reasoning, None if it does not reason.
        assumed: whether its files have no template, so that ChatML is used.
        supports_system: whether the template accepts a system message.
        placeholder: what the template writes for an image, None if it does not support images.
    """

    template: ChatTemplate
    tokens: ChatTokens
    has_tool_template: bool
    tool_call_format: ToolCallFormat
    marks: ReasoningTags | None
    assumed: bool
    supports_system: bool
    placeholder: str | None

    @property
    def takes_effort(self) -> bool:
        """Whether the model's reasoning effort can be set."""
        return bool({"reasoning_effort", "enable_thinking", "thinking"} & self.template.variables)

    def prompt(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
        add_generation_prompt: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Render a chat as a prompt; arguments and errors as for `ChatTemplate.render`."""
        if not self.has_tool_template and (tools or _have_calls(messages)):
            messages = tool_prompt.with_tool_prompt(messages, tools, self.supports_system)
            tools = ()
        text = self.template.render(messages, tools, add_generation_prompt, template_kwargs)
        if self.tokens.adds_bos and not text.startswith(self.tokens.bos):
            return self.tokens.bos + text
        return text


def _have_calls(messages: Sequence[dict[str, Any]]) -> bool:
    return any(message["role"] == "tool" or "tool_calls" in message for message in messages)


def chat_format(model: Model, file: Path | None = None) -> ChatFormat:
    """Return the chat format of a model.

    Args:
        model: the model.
        file: a template that replaces the model's own; read once.

    Raises:
        TemplateError: the template is broken or cannot be read.
    """
    tokens = chat_tokens(model.path, model.format, model.revision)
    return _derive(tokens, None if file is None else _read(file))


@functools.lru_cache(maxsize=64)
def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"The chat template {file.name} cannot be read: {error}.") from None


def capabilities(model: Model, file: Path | None = None) -> dict[str, Any] | None:
    """Return the capabilities that a model's chat template has; None if it is broken."""
    derived = _capabilities(model.path, model.format, model.revision, file)
    return None if derived is None else {**derived, "vision": model.supports_images}


# Far more than the formats that are kept: all models are listed, few are used.
@functools.lru_cache(maxsize=16_384)
def _capabilities(
    path: Path, kind: Format, revision: str, file: Path | None
) -> dict[str, Any] | None:
    try:
        tokens = chat_tokens(path, kind, revision)
        derived = _derive(tokens, None if file is None else _read(file))
    except TemplateError:
        return None
    return {
        "chat_template": "assumed" if derived.assumed else "set" if file else "own",
        "tools": "template" if derived.has_tool_template else "prompt",
        "reasoning": derived.marks is not None,
        "structured_output": True,
    }


@functools.lru_cache(maxsize=64)
def _derive(tokens: ChatTokens, override: str | None) -> ChatFormat:
    source = override or tokens.template
    template = ChatTemplate(source or CHATML, tokens.bos, tokens.eos)
    own_format = call_format(template) if takes_tools(template) else None
    if own_format and any(token in own_format.marks for token in tokens.control):
        # Engines do not output special tokens, so such calls cannot be parsed. In a grammar,
        # special tokens terminate constrained decoding.
        own_format = None
    tags = reasoning_tags(template)
    if tags and tokens.control & {tags.open, tags.close}:
        tags = None
    return ChatFormat(
        template=template,
        tokens=tokens,
        has_tool_template=own_format is not None,
        tool_call_format=own_format or tool_prompt.FORMAT,
        marks=tags,
        assumed=source is None,
        supports_system=takes_system(template),
        placeholder=template.placeholder(),
    )
