"""Turns a client's request into an engine request and an output parser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from vllm_obtain.chat import grammar
from vllm_obtain.chat.chat_format import ChatFormat, flatten
from vllm_obtain.chat.chat_template import RESERVED, TemplateError
from vllm_obtain.chat.output_parser import OutputParser
from vllm_obtain.chat.reasoning_tags import ReasoningTags
from vllm_obtain.chat.structured_output import output_constraint
from vllm_obtain.chat.tool_schemas import ArgumentCheck, build_grammar, described_tools
from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.protocol.engine_request import MARK, EngineRequest, ImageInput
from vllm_obtain.protocol.events import Event
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest
from vllm_obtain.protocol.sampling_params import SamplingParams
from vllm_obtain.protocol.tools import AllowedTools, NamedTool, Tool

# Stands for the message that the model continues.
_CONTINUED = "VOprobe message"
_NOT_ONCE = (
    "This model's chat template does not write each image exactly once. Put the images into user "
    f"messages, and remove texts that contain {MARK}."
)


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A prepared request.

    Args:
        request: the request to the engine.
        parser: the parser of its output; None if there is nothing to parse.
        unenforced: what the grammar of tool calls does not enforce; see `CallGrammar`.
        check: validates the tool calls; None if there is nothing to validate.
    """

    request: EngineRequest
    parser: OutputParser | None = None
    unenforced: tuple[str, ...] = ()
    check: ArgumentCheck | None = None

    def violations(self) -> tuple[str, ...]:
        """Return the keywords that complete tool calls violate; see `ArgumentCheck`."""
        return () if self.check is None else self.check.violations()

    def read(self, batches: Iterator[list[Event]]) -> Iterator[list[Event]]:
        """Parse the engine's events of one attempt."""
        if self.check is not None:
            self.check.clear()
        return batches if self.parser is None else self.parser.parse(batches)


def prepare_completion(
    request: CompletionRequest, params: SamplingParams, control: frozenset[str] = frozenset()
) -> PreparedRequest:
    """Prepare a completion request.

    Args:
        request: the client's request.
        params: its sampling parameters.
        control: the model's special tokens.

    Raises:
        InvalidRequest: no engine can enforce its structured output.
    """
    constraint = output_constraint(request)
    if constraint is not None:
        grammar.check_is_text(constraint.grammar, constraint.param, control)
        grammar.check(constraint.grammar, constraint.param)
    lark = constraint.grammar if constraint else None
    return PreparedRequest(EngineRequest(request.prompt, params, grammar=lark))


def prepare_chat(
    request: ChatRequest,
    params: SamplingParams,
    chat_format: ChatFormat,
    images: Sequence[ImageInput] = (),
    ignored: list[str] | None = None,
) -> PreparedRequest:
    """Prepare a chat request.

    Args:
        request: the client's request.
        params: its sampling parameters.
        chat_format: the model's chat format.
        images: the images of the messages, in order.
        ignored: list to append the field to that sets the reasoning effort, if the chat template
            has none; None rejects it.

    Raises:
        InvalidRequest: the chat cannot be rendered, or no engine can enforce its structured
            output.
    """
    tools = _Tools.of(request)
    prompt = _prompt(request, chat_format, tools, ignored)
    if images and prompt.count(MARK) != len(images):
        raise TemplateError(_NOT_ONCE, param="messages")
    constraint = output_constraint(request)
    if constraint is not None:
        control = chat_format.tokens.control
        grammar.check_is_text(constraint.grammar, constraint.param, control)
    if tools.required:
        # Libraries send both: the format is that of a completion without calls.
        constraint = None
    tags = chat_format.marks
    begun = bool(tags and tags.begun(prompt))
    if tags and tags.is_over(prompt):
        tags = None
    opening = tags.open if tags and not begun else ""
    tool_grammar = lark = None
    if tools.callable:
        content = constraint.grammar if constraint else None
        call_rules = _call_rules(tools, chat_format, content, opening)

        def build(functions: list[dict[str, Any]]) -> str:
            return _after_reasoning(call_rules(functions), tags, begun)

        if constraint is not None:
            grammar.check(constraint.grammar, constraint.param)
        tool_grammar = build_grammar(tools.callable, chat_format.tokens.control, build)
        lark = tool_grammar.text
    elif constraint is not None:
        lark = _after_reasoning(constraint.grammar, tags, begun)
        grammar.check(lark, constraint.param)
    bos = chat_format.tokens.bos if chat_format.tokens.adds_bos else ""
    engine_request = EngineRequest(
        prompt,
        params,
        is_chat=True,
        bos=bos,
        grammar=lark,
        images=tuple(images),
        placeholder=chat_format.placeholder,
    )
    calls = chat_format.tool_call_format if tools.callable else None
    if tags is None and calls is None:
        return PreparedRequest(engine_request)
    if tool_grammar is None or tool_grammar.check is None:
        return PreparedRequest(engine_request, OutputParser(tags, begun, calls, not tools.named))
    check = tool_grammar.check
    parser = OutputParser(tags, begun, calls, not tools.named, check.add)
    return PreparedRequest(engine_request, parser, tool_grammar.unenforced, check)


def _after_reasoning(lark: str, tags: ReasoningTags | None, begun: bool) -> str:
    return lark if tags is None else grammar.after_reasoning(lark, tags, begun)


def _call_rules(
    tools: _Tools, chat_format: ChatFormat, content: str | None, excluded_prefix: str
) -> Callable[[list[dict[str, Any]]], str]:
    """Return a function that builds the grammar of calls of functions."""
    # A model without a tool template tends to repeat calls, so it gets more than one on request.
    several = not tools.named and (
        chat_format.has_tool_template if tools.several is None else tools.several
    )
    return partial(
        grammar.of_calls,
        chat_format.tool_call_format,
        required=tools.required,
        several=several,
        excluded_prefix=excluded_prefix,
        content=content,
    )


def _prompt(
    request: ChatRequest, chat_format: ChatFormat, tools: _Tools, ignored: list[str] | None
) -> str:
    messages = flatten(request.messages)
    template_kwargs = _template_kwargs(request, chat_format, ignored)
    continues = bool(request.continue_final_message)
    if continues and request.add_generation_prompt:
        raise InvalidRequest(
            "'continue_final_message' and 'add_generation_prompt' are mutually exclusive. Remove "
            "one of them.",
            param="continue_final_message",
        )
    if continues and (messages[-1]["role"] != "assistant" or "tool_calls" in messages[-1]):
        raise InvalidRequest(
            "'continue_final_message' requires that the last message is an assistant message "
            "without tool calls.",
            param="continue_final_message",
        )
    add_generation_prompt = not continues and request.add_generation_prompt is not False
    described = described_tools(tools.described) if tools.described else []
    if not continues:
        return chat_format.prompt(messages, described, add_generation_prompt, template_kwargs)
    last = str(messages[-1]["content"])
    # Replaced by a unique text, because the message's text may occur in the template too.
    messages[-1]["content"] = _CONTINUED
    prompt = chat_format.prompt(messages, described, add_generation_prompt, template_kwargs)
    return _cut(prompt) + last.rstrip()


def _cut(text: str) -> str:
    """Cut a prompt at the beginning of the message that the model continues."""
    at = text.rfind(_CONTINUED)
    if at < 0:
        raise InvalidRequest(
            "'continue_final_message' is not supported: this model's chat template changes the "
            "last message. Remove it.",
            param="continue_final_message",
        )
    return text[:at]


def _template_kwargs(
    request: ChatRequest, chat_format: ChatFormat, ignored: list[str] | None
) -> dict[str, Any]:
    kwargs = dict(request.chat_template_kwargs or {})
    if reserved := sorted(RESERVED & kwargs.keys()):
        name = f"chat_template_kwargs.{reserved[0]}"
        raise InvalidRequest(f"Invalid '{name}': use the field of the request instead.", param=name)
    param, effort = _effort(request)
    if effort is None:
        return kwargs
    known = chat_format.effort_variables
    if "reasoning_effort" in known:
        kwargs.setdefault("reasoning_effort", effort)
    elif "enable_thinking" in known:
        kwargs.setdefault("enable_thinking", effort != "none")
    elif "thinking" in known:
        kwargs.setdefault("thinking", effort != "none")
    elif effort != "none" or chat_format.marks is not None:
        if ignored is None:
            raise UnsupportedParameter(
                param, "This model's chat template does not support it. Remove it."
            )
        ignored.append(param)
    return kwargs


def _effort(request: ChatRequest) -> tuple[str, str | None]:
    """Return the reasoning effort of a request, and the field that sets it."""
    for name in ("enable_thinking", "think"):
        value = getattr(request, name)
        if request.reasoning_effort is None and value is not None:
            return name, "medium" if value else "none"
    return "reasoning_effort", request.reasoning_effort


@dataclass(frozen=True, slots=True)
class _Tools:
    """The tool settings of a request.

    Args:
        described: tools that the prompt describes.
        callable: tools that the model may call now.
        required: whether it has to call one.
        named: whether the client named the one to call.
        several: whether it may call more than one; None if the client does not say.
    """

    described: list[Tool]
    callable: list[Tool]
    required: bool = False
    named: bool = False
    several: bool | None = None

    @classmethod
    def of(cls, request: ChatRequest) -> _Tools:
        """Read the tool settings of a request.

        Raises:
            InvalidRequest: they contradict each other.
        """
        tools, choice = request.tools or [], request.tool_choice
        names = Counter(tool.function.name for tool in tools)
        if duplicate := next((name for name, count in names.items() if count > 1), None):
            raise InvalidRequest(
                f"Two tools have the name '{duplicate}'. Rename one.", param="tools"
            )
        if not tools and choice not in (None, "none", "auto"):
            raise InvalidRequest(
                "'tool_choice' requires 'tools'. Add 'tools', or remove it.", param="tool_choice"
            )
        several = request.parallel_tool_calls
        if not tools or choice == "none":
            return cls([], [])
        if isinstance(choice, NamedTool):
            return cls(tools, _named(tools, [choice]), required=True, named=True)
        if isinstance(choice, AllowedTools):
            allowed = choice.allowed_tools
            subset = _named(tools, allowed.tools)
            return cls(tools, subset, allowed.mode == "required", several=several)
        return cls(tools, tools, choice == "required", several=several)


def _named(tools: list[Tool], choices: list[NamedTool]) -> list[Tool]:
    known = {tool.function.name: tool for tool in tools}
    names = [choice.function.name for choice in choices]
    for name in names:
        if name not in known:
            raise InvalidRequest(
                f"'tool_choice' names '{name}', which is not among 'tools': {', '.join(known)}.",
                param="tool_choice",
            )
    return [known[name] for name in names]
