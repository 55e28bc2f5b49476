"""What the sandbox does with chat templates: it renders them and finds out what they support."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vllm_obtain.chat.chat_template import EFFORT_VARIABLES, ChatTemplate, Messages
from vllm_obtain.chat.reasoning_tags import reasoning_tags
from vllm_obtain.chat.tool_call_format import call_format, takes_system, takes_tools

# Characters around tool calls, and for an image. Templates have some 50.
_LONGEST = 4096
# Templates that one process keeps compiled.
_template = functools.lru_cache(maxsize=16)(ChatTemplate)


def probe(source: str, bos: str, eos: str) -> dict[str, Any]:
    """Find out what a template supports.

    Returns:
        The fields of `TemplateFeatures`.

    Raises:
        TemplateError: it is not valid Jinja.
    """
    template = _template(source, bos, eos)
    tool_calls = call_format(template) if takes_tools(template) else None
    if tool_calls is not None and len(tool_calls.marks) > _LONGEST:
        tool_calls = None
    tags, placeholder = reasoning_tags(template), template.placeholder()
    if placeholder is not None and len(placeholder) > _LONGEST:
        placeholder = None
    return {
        "in_parts": template.in_parts,
        "tool_calls": None if tool_calls is None else asdict(tool_calls),
        "reasoning": None if tags is None else asdict(tags),
        "supports_system": takes_system(template),
        "placeholder": placeholder,
        "effort_variables": sorted(EFFORT_VARIABLES & template.variables()),
    }


def render(
    source: str,
    bos: str,
    eos: str,
    in_parts: bool,
    messages: Messages,
    tools: list[dict[str, Any]],
    add_generation_prompt: bool,
    template_kwargs: Mapping[str, Any],
) -> str:
    """Render a chat as a prompt; arguments and errors as for `ChatTemplate`."""
    template = _template(source, bos, eos, in_parts)
    return template.render(messages, tools, add_generation_prompt, template_kwargs)
