"""How a model spells a tool call, found out by having its template write some.

Families differ in what they put around the name of a function and its arguments, and nearly all
write the arguments as JSON. So a template is given calls that are easy to find again, and what
stands around them is the format, whatever the family.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from vllm_obtain.chat.template import ChatTemplate, TemplateError

_ASKED = {"role": "user", "content": "VOprobe question"}
_ANSWER = "VOprobe answer"
_NAMES = ("VOprobe_one", "VOprobe_two", "VOprobe_three")
_ARGUMENTS = {"VOprobe_key": "VOprobe value"}
_IDS = ("VOprobe01", "VOprobe02", "VOprobe03")
# What a model cannot write by accident: a tag, or a word in brackets.
_MARK = re.compile(r"\s*(<[^<>\s]+>|\[[A-Z_]+\])")


@dataclass(frozen=True, slots=True)
class CallFormat:
    """What stands around the calls of an answer.

    Args:
        begin: before the first name.
        middle: between a name and its arguments, which are a JSON object.
        between: between the arguments of a call and the next name; None where there is one call
            at most.
        end: behind the last arguments.
    """

    begin: str
    middle: str
    between: str | None
    end: str

    @property
    def mark(self) -> str:
        """The beginning of a call that no other text has, or all of `begin` if there is none."""
        found = _MARK.match(self.begin)
        return found.group(0).lstrip() if found else self.begin.lstrip()

    @property
    def marks(self) -> str:
        """All that stands around names and arguments."""
        return "\n".join([self.begin, self.middle, self.between or "", self.end])

    @property
    def is_marked(self) -> bool:
        """Whether a call can be told from text wherever it stands."""
        return _MARK.match(self.begin) is not None

    def write(self, calls: list[tuple[str, str]]) -> str:
        """Spell calls, each a name and its arguments as JSON."""
        spelled = [f"{name}{self.middle}{arguments}" for name, arguments in calls]
        if self.between is None:
            return "\n".join(f"{self.begin}{call}{self.end}" for call in spelled)
        return self.begin + self.between.join(spelled) + self.end


def call_format(template: ChatTemplate) -> CallFormat | None:
    """Find out how a template spells calls.

    Returns:
        None when it knows no tools, or spells them in a way that is not names and JSON.
    """
    try:
        return _derive(template)
    except (TemplateError, ValueError):
        return None


def takes_tools(template: ChatTemplate) -> bool:
    """Whether the template tells the model which tools there are."""
    tools = [{"type": "function", "function": {"name": _NAMES[0], "parameters": {}}}]
    try:
        return _NAMES[0] in template.render([_ASKED], tools)
    except TemplateError:
        return False


def takes_system(template: ChatTemplate) -> bool:
    """Whether the template writes a message of the system; some refuse it, or leave it out."""
    try:
        return _ANSWER in template.render([{"role": "system", "content": _ANSWER}, _ASKED])
    except TemplateError:
        return False


def _derive(template: ChatTemplate) -> CallFormat | None:
    plain = template.render([_ASKED, {"role": "assistant", "content": _ANSWER}], begin_answer=False)
    start = plain.index(_ANSWER)
    closing = plain[start + len(_ANSWER) :]
    one = _answer(_called(template, 1), plain[:start], closing)
    name, (first, last) = _places(one, 1)[0]
    made = CallFormat(
        begin=one[:name].lstrip(),
        middle=one[name + len(_NAMES[0]) : first],
        between=None,
        end=one[last:].rstrip(),
    )
    if not made.begin or any(mark in one for mark in _IDS):
        return None
    return _with_several(made, template, plain[:start], closing, one[first:last])


def _with_several(
    made: CallFormat, template: ChatTemplate, before: str, closing: str, arguments: str
) -> CallFormat:
    """Add what stands between two calls, if the template writes three as we would.

    Some number their calls, so that two do not tell.
    """
    try:
        three = _answer(_called(template, len(_NAMES)), before, closing)
        (_, (_, end)), (second, _), _ = _places(three, len(_NAMES))
    except (TemplateError, ValueError):
        return made
    full = replace(made, between=three[end:second])
    return full if full.write([(name, arguments) for name in _NAMES]) == three.strip() else made


def _answer(text: str, before: str, closing: str) -> str:
    """Cut an answer out of the conversation around it."""
    if not text.startswith(before) or not text.endswith(closing):
        raise ValueError("calls change the conversation around them")
    return text[len(before) : len(text) - len(closing)]


def _called(template: ChatTemplate, count: int) -> str:
    calls: list[dict[str, Any]] = [
        {"id": _IDS[n], "type": "function", "function": {"name": name, "arguments": _ARGUMENTS}}
        for n, name in enumerate(_NAMES[:count])
    ]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    return template.render([_ASKED, message], begin_answer=False)


def _places(answer: str, count: int) -> list[tuple[int, tuple[int, int]]]:
    """Find where each name begins, and where its arguments begin and end."""
    found = []
    for name in _NAMES[:count]:
        at = answer.index(name)
        begin = answer.index("{", at)
        value, end = json.JSONDecoder().raw_decode(answer, begin)
        if value != _ARGUMENTS:
            raise ValueError("arguments are not written as they are")
        found.append((at, (begin, end)))
    return found
