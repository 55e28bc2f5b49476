"""From a request to what an engine is asked, and to how its answer is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from vllm_obtain.chat import grammar
from vllm_obtain.chat.conversation import flatten
from vllm_obtain.chat.reader import Reading
from vllm_obtain.chat.speaker import Speaker
from vllm_obtain.chat.template import RESERVED, TemplateError
from vllm_obtain.chat.wishes import Wish, wished_form
from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.protocol.events import Event
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest
from vllm_obtain.protocol.task import MARK, Image, Task
from vllm_obtain.protocol.tools import AllowedTools, NamedTool, Tool

# Stands for a message that the model goes on with.
_HERE = "VOprobe message"
_NOT_ONCE = (
    "This model's chat template does not write each image of this conversation once. Put the "
    f"images into the user's messages, and no text that holds {MARK}."
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that is ready.

    Args:
        task: what the engine is asked.
        reading: what to look for in its answer; None for nothing.
    """

    task: Task
    reading: Reading | None = None

    def read(self, batches: Iterator[list[Event]]) -> Iterator[list[Event]]:
        """Turn the engine's events into what they mean."""
        return batches if self.reading is None else self.reading.read(batches)


def prepare_completion(
    request: CompletionRequest, control: frozenset[str] = frozenset()
) -> Prepared:
    """Make a text completion ready.

    Args:
        request: what the client sent.
        control: the model's tokens that are no text.

    Raises:
        InvalidRequest: the form it asks for cannot be held.
    """
    wish = wished_form(request)
    if wish is not None:
        grammar.check_is_text(wish.grammar, wish.param, control)
        grammar.check(wish.grammar, wish.param)
    return Prepared(Task(request, request.prompt, grammar=wish.grammar if wish else None))


def prepare_chat(request: ChatRequest, speaker: Speaker, images: Sequence[Image] = ()) -> Prepared:
    """Make a chat ready.

    Args:
        request: what the client sent.
        speaker: how the model talks.
        images: those of the messages, in order.

    Raises:
        InvalidRequest: the conversation cannot be written, or its form not be held.
    """
    tools = _Tools.of(request)
    prompt = _prompt(request, speaker, tools)
    if images and prompt.count(MARK) != len(images):
        raise TemplateError(_NOT_ONCE, param="messages")
    form = wished_form(request)
    if form is not None:
        grammar.check_is_text(form.grammar, form.param, speaker.words.control)
    if tools.callable and form is not None and tools.required:
        raise InvalidRequest(
            f"'{form.param}' cannot be combined with a 'tool_choice' that demands a call.",
            param=form.param,
        )
    marks = speaker.marks
    begun = bool(marks and marks.begun(prompt))
    if marks and marks.is_over(prompt):
        marks = None
    wish = _calls(tools, speaker, form, marks.open if marks and not begun else "") or form
    made = None
    if wish is not None:
        made = wish.grammar if marks is None else grammar.after_thinking(wish.grammar, marks, begun)
        grammar.check(made, wish.param)
    bos = speaker.words.bos if speaker.words.adds_bos else ""
    task = Task(request, prompt, bos, made, tuple(images), speaker.placeholder)
    calls = speaker.calls if tools.callable else None
    if marks is None and calls is None:
        return Prepared(task)
    return Prepared(task, Reading(marks, begun, calls, not tools.named))


def _calls(tools: _Tools, speaker: Speaker, form: Wish | None, not_first: str) -> Wish | None:
    if not tools.callable:
        return None
    functions = [_callable(tool) for tool in tools.callable]
    written = json.dumps(functions, ensure_ascii=False)
    grammar.check_is_text(written, "tools", speaker.words.control)
    # A model that was never taught to call repeats itself: it makes more than one if asked to.
    several = not tools.named and (speaker.own_tools if tools.several is None else tools.several)
    instead = form.grammar if form else None
    made = grammar.of_calls(speaker.calls, functions, tools.required, several, not_first, instead)
    return Wish(made, "tools")


def _prompt(request: ChatRequest, speaker: Speaker, tools: _Tools) -> str:
    messages = flatten(request.messages)
    more = _variables(request, speaker)
    going_on = bool(request.continue_final_message)
    if going_on and request.add_generation_prompt:
        raise InvalidRequest(
            "'continue_final_message' and 'add_generation_prompt' exclude each other.",
            param="continue_final_message",
        )
    if going_on and (messages[-1]["role"] != "assistant" or "tool_calls" in messages[-1]):
        raise InvalidRequest(
            "'continue_final_message' needs a last message of the assistant, without calls.",
            param="continue_final_message",
        )
    begin = not going_on and request.add_generation_prompt is not False
    told = [shaped(tool) for tool in tools.told]
    if not going_on:
        return speaker.prompt(messages, told, begin, more)
    last = str(messages[-1]["content"])
    # Found by a word that nobody writes: the message's own may stand in the template, too.
    messages[-1]["content"] = _HERE
    return _cut(speaker.prompt(messages, told, begin, more)) + last.rstrip()


def _cut(text: str) -> str:
    """Cut a prompt where its last message begins, which the model goes on with."""
    at = text.rfind(_HERE)
    if at < 0:
        raise InvalidRequest(
            "'continue_final_message' cannot be honoured: this model's chat template changes the "
            "last message.",
            param="continue_final_message",
        )
    return text[:at]


def _variables(request: ChatRequest, speaker: Speaker) -> dict[str, Any]:
    given = dict(request.chat_template_kwargs or {})
    if taken := sorted(RESERVED & given.keys()):
        name = f"chat_template_kwargs.{taken[0]}"
        raise InvalidRequest(f"Invalid '{name}': the request has a field for it.", param=name)
    effort = request.reasoning_effort
    if effort is None:
        return given
    known = speaker.template.variables
    if "reasoning_effort" in known:
        given.setdefault("reasoning_effort", effort)
    elif "enable_thinking" in known:
        given.setdefault("enable_thinking", effort != "none")
    elif "thinking" in known:
        given.setdefault("thinking", effort != "none")
    elif effort != "none" or speaker.marks is not None:
        raise UnsupportedParameter(
            "reasoning_effort", "This model's chat template has no such choice; leave it out."
        )
    return given


def shaped(tool: Tool) -> dict[str, Any]:
    """Write a tool as templates expect it: what was left out stays out."""
    function = msgspec.to_builtins(tool.function)
    kept = {name: value for name, value in function.items() if value is not None}
    kept.pop("strict", None)
    return {"type": "function", "function": kept}


def _callable(tool: Tool) -> dict[str, Any]:
    """A function whose arguments are an object, whatever else its schema says.

    Raises:
        InvalidRequest: its schema says that they are something else.
    """
    parameters = tool.function.parameters or {}
    if parameters.get("type", "object") != "object":
        raise InvalidRequest(
            f"Invalid 'tools': the parameters of '{tool.function.name}' are no object.",
            param="tools",
        )
    return {"name": tool.function.name, "parameters": {**parameters, "type": "object"}}


@dataclass(frozen=True, slots=True)
class _Tools:
    """What a request says about tools.

    Args:
        told: those that the model hears of.
        callable: those that it may call now.
        required: whether it has to call one.
        named: whether the client named the one to call.
        several: whether it may call more than one, if the client says.
    """

    told: list[Tool]
    callable: list[Tool]
    required: bool = False
    named: bool = False
    several: bool | None = None

    @classmethod
    def of(cls, request: ChatRequest) -> _Tools:
        """Read the fields.

        Raises:
            InvalidRequest: they do not fit each other.
        """
        tools, choice = request.tools or [], request.tool_choice
        names = [tool.function.name for tool in tools]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InvalidRequest(f"Two tools have the name '{twice}'.", param="tools")
        if not tools and choice not in (None, "none", "auto"):
            raise InvalidRequest("'tool_choice' needs 'tools' to choose from.", param="tool_choice")
        several = request.parallel_tool_calls
        if not tools or choice == "none":
            return cls([], [])
        if isinstance(choice, NamedTool):
            return cls(tools, _named(tools, [choice]), required=True, named=True)
        if isinstance(choice, AllowedTools):
            allowed = choice.allowed_tools
            some = _named(tools, allowed.tools)
            return cls(tools, some, allowed.mode == "required", several=several)
        return cls(tools, tools, choice == "required", several=several)


def _named(tools: list[Tool], wanted: list[NamedTool]) -> list[Tool]:
    known = {tool.function.name: tool for tool in tools}
    for one in wanted:
        if one.function.name not in known:
            raise InvalidRequest(
                f"'tool_choice' names '{one.function.name}', which is not among 'tools': "
                f"{', '.join(known)}.",
                param="tool_choice",
            )
    return [known[one.function.name] for one in wanted]
