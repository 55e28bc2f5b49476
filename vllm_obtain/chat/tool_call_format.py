"""Derives a model's format of tool calls from its chat template.

Families of models differ in what surrounds the name and the arguments of a call; nearly all write
the arguments as JSON. So the template renders calls with unique names, and the text around those
is the format.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from vllm_obtain.chat.chat_template import ChatTemplate, TemplateError

_QUESTION = {"role": "user", "content": "VOprobe question"}
_ANSWER = "VOprobe answer"
_NAMES = ("VOprobe_one", "VOprobe_two", "VOprobe_three")
_ARGUMENTS = {"VOprobe_key": "VOprobe value"}
_IDS = ("VOprobe01", "VOprobe02", "VOprobe03")
# What a model does not write by accident: a tag, or a word in brackets.
_MARK = re.compile(r"\s*(<[^<>\s]+>|\[[A-Z_]+\])")


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """The text around tool calls.

    Args:
        begin: text before the first name.
        middle: text between a name and its arguments, which are a JSON object.
        between: text between the arguments of a call and the next name; None if there can be only
            one call.
        end: text after the last arguments.
    """

    begin: str
    middle: str
    between: str | None
    end: str

    @property
    def mark(self) -> str:
        """The first part of `begin` that other texts do not contain, or all of `begin`."""
        match = _MARK.match(self.begin)
        return match.group(0).lstrip() if match else self.begin.lstrip()

    @property
    def marks(self) -> str:
        """All text around names and arguments."""
        return "\n".join([self.begin, self.middle, self.between or "", self.end])

    @property
    def is_marked(self) -> bool:
        """Whether a call can be told from text at any position."""
        return _MARK.match(self.begin) is not None

    def write(self, calls: list[tuple[str, str]]) -> str:
        """Format calls, each a name and its arguments as JSON."""
        formatted = [f"{name}{self.middle}{arguments}" for name, arguments in calls]
        if self.between is None:
            return "\n".join(f"{self.begin}{call}{self.end}" for call in formatted)
        return self.begin + self.between.join(formatted) + self.end


def call_format(template: ChatTemplate) -> ToolCallFormat | None:
    """Derive the format of tool calls of a template.

    Returns:
        None if it does not support tools, or does not write calls as a name and JSON.
    """
    try:
        return _derive(template)
    except (TemplateError, ValueError):
        return None


def takes_tools(template: ChatTemplate) -> bool:
    """Whether the template describes tools to the model."""
    tools = [{"type": "function", "function": {"name": _NAMES[0], "parameters": {}}}]
    try:
        return _NAMES[0] in template.render([_QUESTION], tools)
    except TemplateError:
        return False


def takes_system(template: ChatTemplate) -> bool:
    """Whether the template writes a system message; some reject or omit it."""
    try:
        return _ANSWER in template.render([{"role": "system", "content": _ANSWER}, _QUESTION])
    except TemplateError:
        return False


def _derive(template: ChatTemplate) -> ToolCallFormat | None:
    answer = {"role": "assistant", "content": _ANSWER}
    plain = template.render([_QUESTION, answer], add_generation_prompt=False)
    start = plain.index(_ANSWER)
    closing = plain[start + len(_ANSWER) :]
    one = _answer(_render_calls(template, 1), plain[:start], closing)
    name, (first, last) = _places(one, 1)[0]
    derived = ToolCallFormat(
        begin=one[:name].lstrip(),
        middle=one[name + len(_NAMES[0]) : first],
        between=None,
        end=one[last:].rstrip(),
    )
    if not derived.begin or any(mark in one for mark in _IDS):
        return None
    return _with_several(derived, template, plain[:start], closing, one[first:last])


def _with_several(
    single: ToolCallFormat, template: ChatTemplate, before: str, closing: str, arguments: str
) -> ToolCallFormat:
    """Add the text between two calls, if the template writes three calls as we would.

    Some templates number the calls, so two are not enough.
    """
    try:
        three = _answer(_render_calls(template, len(_NAMES)), before, closing)
        (_, (_, end)), (second, _), _ = _places(three, len(_NAMES))
    except (TemplateError, ValueError):
        return single
    full = replace(single, between=three[end:second])
    return full if full.write([(name, arguments) for name in _NAMES]) == three.strip() else single


def _answer(text: str, before: str, closing: str) -> str:
    """Cut the assistant's message out of a rendered chat."""
    if not text.startswith(before) or not text.endswith(closing):
        raise ValueError("calls change the conversation around them")
    return text[len(before) : len(text) - len(closing)]


def _render_calls(template: ChatTemplate, count: int) -> str:
    calls: list[dict[str, Any]] = [
        {"id": _IDS[n], "type": "function", "function": {"name": name, "arguments": _ARGUMENTS}}
        for n, name in enumerate(_NAMES[:count])
    ]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    return template.render([_QUESTION, message], add_generation_prompt=False)


def _places(answer: str, count: int) -> list[tuple[int, tuple[int, int]]]:
    """Return where each name begins, and where its arguments begin and end."""
    found = []
    for name in _NAMES[:count]:
        at = answer.index(name)
        begin = answer.index("{", at)
        value, end = json.JSONDecoder().raw_decode(answer, begin)
        if value != _ARGUMENTS:
            raise ValueError("the template changes the arguments")
        found.append((at, (begin, end)))
    return found
