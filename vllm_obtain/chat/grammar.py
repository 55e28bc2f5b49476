"""What an answer has to look like, as a grammar that all three engines hold an answer to.

The language is llguidance's Lark (https://github.com/guidance-ai/llguidance, docs/syntax.md):
llama.cpp has it built in, vLLM takes it through its `guidance` backend, our MLX server uses it
directly. So one schema means the same everywhere, and one check here refuses what none can hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from llguidance.gbnf_to_lark import any_to_lark

from vllm_obtain.chat import trial
from vllm_obtain.chat.call_format import CallFormat
from vllm_obtain.chat.thinking import Thinking
from vllm_obtain.errors import InvalidRequest

# llama.cpp knows by this line that a grammar is not in its own language.
_HEAD = "%llguidance {}\n"
# Compiling takes a millisecond for what people write; `trial` ends what takes a second.
MAX_BYTES = 512 * 1024
# Translating GBNF takes a time that grows with the square of its lines.
_MAX_OWN = 64 * 1024
# Where white space is free, small models write nothing else until `max_tokens`.
_RULES = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}
# The name `start`, or what has it in it and is no name: texts, expressions, comments.
_START = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/(?:\\.|[^/\\\n])+/|\b(start)\b')
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


def of_schema(schema: Any) -> str:
    """Allow the JSON values of a schema."""
    return _HEAD + f"start: {_json(schema)}\n"


def of_object() -> str:
    """Allow JSON objects."""
    return of_schema(_ANY_OBJECT)


def of_choice(texts: Sequence[str]) -> str:
    """Allow these texts and no others."""
    return _HEAD + f"start: {' | '.join(map(_text, texts))}\n"


def of_regex(pattern: str) -> str:
    """Allow the texts that a regular expression matches whole."""
    return _HEAD + f"start: {_regex(pattern)}\n"


def of_language(grammar: str, param: str) -> str:
    """Allow what a grammar of the client's own does: Lark, or llama.cpp's GBNF.

    Args:
        grammar: in either language.
        param: the field that holds it.

    Raises:
        InvalidRequest: it is neither, or too large.
    """
    if len(grammar) > _MAX_OWN:
        raise InvalidRequest(
            f"Invalid '{param}': it has {len(grammar):,} characters and {_MAX_OWN:,} are allowed.",
            param=param,
        )
    try:
        made = str(any_to_lark(grammar))
    except Exception as error:
        raise InvalidRequest(f"Invalid '{param}': {error}.", param=param) from None
    return made if made.startswith("%llguidance") else _HEAD + made


def of_calls(
    spelled: CallFormat,
    functions: Sequence[dict[str, Any]],
    required: bool,
    several: bool,
    not_first: str = "",
    form: str | None = None,
) -> str:
    """Allow calls of tools, each held to the schema of its arguments.

    Args:
        spelled: how the model spells calls.
        functions: those that may be called, each with a name and the schema of its arguments.
        required: whether there must be a call; else any text may stand there, or before it.
        several: whether there may be more than one.
        not_first: what no text begins with, since it begins something else.
        form: the grammar of an answer without calls; None for any text.
    """
    between = spelled.between if several else None
    repeated = "" if between is None else f" ({_text(between)} call)*"
    calls = f"call{repeated} {_text(spelled.end)}"
    calls = calls if spelled.end else calls.removesuffix('""')
    rules = [
        f"call: {' | '.join(f'call_{n}' for n in range(len(functions)))}",
        *(_call(n, spelled, function) for n, function in enumerate(functions)),
    ]
    start = [f"start: {_text(spelled.begin)} {calls}"]
    if not required and form is not None:
        start = [f"start: answer | {_text(spelled.begin)} {calls}", _renamed(form)]
    elif not required:
        start = _or_text(spelled, calls, not_first)
    return _HEAD + "\n".join([*start, *rules]) + "\n"


def after_thinking(grammar: str, marks: Thinking, begun: bool) -> str:
    """Let the model reason before what a grammar allows.

    Args:
        grammar: of the answer.
        marks: around the reasoning.
        begun: whether the prompt has opened it.
    """
    reason = f"reason[suffix={_text(marks.close)}]: /(.|\\n)*/"
    space = "/[ \\n]{0,4}/"
    opened = "reason" if begun else f"({_text(marks.open)} reason)?"
    return f"{_HEAD}start: {opened} {space} answer\n{reason}\n{_renamed(grammar)}"


def check(grammar: str, param: str) -> None:
    """Refuse what cannot be held, before an engine is asked.

    Args:
        grammar: of this module.
        param: the request's field that asks for it.

    Raises:
        InvalidRequest: it is too large, or the message names what in it is not supported.
    """
    check_size(len(grammar), param)
    problem = trial.problem(grammar)
    if problem:
        raise InvalidRequest(
            f"Invalid '{param}': no engine can hold an answer to it: {problem}.",
            param=param,
            code="unsupported_schema",
        )


def check_size(size: int, param: str) -> None:
    """Refuse what is too large before anything looks through it, which can take many seconds.

    Args:
        size: of the grammar, or of what it is made of.
        param: the request's field that asks for it.

    Raises:
        InvalidRequest: it is.
    """
    if size > MAX_BYTES:
        raise InvalidRequest(
            f"Invalid '{param}': it comes to {size:,} bytes of grammar and {MAX_BYTES:,} "
            "are allowed. Shorten its enumerations.",
            param=param,
        )


def check_is_text(written: str, param: str, control: frozenset[str]) -> None:
    """Refuse what spells a mark of the model's own: engines do not take those for text.

    Args:
        written: by a client, as part of a grammar.
        param: the request's field that holds it.
        control: the marks.

    Raises:
        InvalidRequest: the message names the mark.
    """
    for token in control:
        if token in written:
            raise InvalidRequest(
                f"Invalid '{param}': it spells '{token}', which to this model is a mark, no text.",
                param=param,
                code="unsupported_schema",
            )


def _renamed(grammar: str) -> str:
    """A grammar as part of another one: its start is called `answer`, wherever it says so."""
    return _START.sub(lambda found: "answer" if found[1] else found[0], grammar.removeprefix(_HEAD))


def _or_text(spelled: CallFormat, calls: str, not_first: str) -> list[str]:
    """Rules for calls behind any text, or for text that nobody could take for a call."""
    mark = _escaped(spelled.mark)
    # Readers look behind space at the beginning of an answer.
    begins = f" & ~/\\s*{_escaped(not_first)}(.|\\n)*/" if not_first else ""
    if not spelled.is_marked:
        return [
            f"start: free | {_text(spelled.begin)} {calls}",
            f"free: FREE\nFREE: /(.|\\n)*/ & ~/\\s*{mark}(.|\\n)*/{begins}",
        ]
    rest = spelled.begin[len(spelled.mark) :]
    return [
        f"start: free | lead {_text(rest)} {calls}",
        f"lead[suffix={_text(spelled.mark)}]: LEAD\nLEAD: /(.|\\n)*/{begins}",
        f"free: FREE\nFREE: /(.|\\n)*/ & ~/(.|\\n)*{mark}(.|\\n)*/{begins}",
    ]


def _call(number: int, spelled: CallFormat, function: dict[str, Any]) -> str:
    schema = function.get("parameters") or _ANY_OBJECT
    head = _text(function["name"] + spelled.middle)
    return f"call_{number}: {head} {_json(schema)}"


def _json(schema: Any) -> str:
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": _RULES}
    try:
        return "%json " + json.dumps(schema, ensure_ascii=False)
    except RecursionError:
        raise InvalidRequest("The schema is nested too deeply.") from None


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    return _slashes(re.escape(text).replace("\n", "\\n"))


def _regex(pattern: str) -> str:
    return f"/{_slashes(pattern)}/"


def _slashes(pattern: str) -> str:
    """Write slashes so that they do not end an expression of Lark's."""
    return re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern).replace("\n", "\\n")
