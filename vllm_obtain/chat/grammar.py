"""Builds grammars that constrain completions, in a language that all three engines support.

The language is llguidance's Lark (https://github.com/guidance-ai/llguidance, docs/syntax.md):
llama.cpp has it built in, vLLM supports it through its `guidance` backend, our MLX server uses it
directly. So a schema means the same on every engine, and one check rejects unsupported grammars.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

from vllm_obtain.chat import grammar_checker, json_schema, schema_source
from vllm_obtain.chat.grammar_limits import pattern_problem
from vllm_obtain.chat.reasoning_tags import ReasoningTags
from vllm_obtain.chat.tool_call_format import ToolCallFormat
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.gevent_compat import yield_to_others

# Characters that are searched before other requests have a turn. Models have up to thousands of
# special tokens.
_SEARCHED = 8_000_000
# By this line llama.cpp tells these grammars from its own GBNF.
_HEAD = "%llguidance {}\n"
# Usual grammars compile in a millisecond; the sandbox stops those that take a second.
MAX_BYTES = 512 * 1024
# Characters of a grammar of a client.
_MAX_OWN = 64 * 1024
# The time to translate blank lines of GBNF grows with the square of their number.
_BLANK_LINES = re.compile(r"\n{3,}")
# With flexible white space, small models generate nothing else until `max_tokens`.
_RULES = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}
# The rule name `start`, or a string, regular expression or comment, in which it is no name.
_START = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/(?:\\.|[^/\\\n])+/|\b(start)\b')
# A schema within a client's grammar.
_JSON_RULE = re.compile(r"%json\s*")
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


def of_schema(schema: Any) -> str:
    """Build a grammar for the JSON values of a schema that was checked."""
    return _HEAD + f"start: {_json(schema)}\n"


def of_contract(schema: Any, param: str) -> str:
    """Build a grammar for the JSON values of a schema, all of whose keywords are enforced.

    Args:
        schema: the schema.
        param: the request field that has it.

    Raises:
        InvalidRequest: it cannot be enforced; the message has the path of the keyword.
    """
    try:
        source = schema_source.encode(schema)
        check_size(len(source), param)
        return of_schema(json_schema.enforce(source).schema)
    except schema_source.SchemaError as error:
        raise unsupported(param, str(error)) from None


def of_object() -> str:
    return of_schema(_ANY_OBJECT)


def of_choice(texts: Sequence[str]) -> str:
    return _HEAD + f"start: {' | '.join(map(_text, texts))}\n"


def of_regex(pattern: str, param: str) -> str:
    """Build a grammar for texts that fully match a regular expression.

    Args:
        pattern: the regular expression.
        param: the request field that has it.

    Raises:
        InvalidRequest: it has too many repetitions, or an unsupported part.
    """
    if problem := pattern_problem(pattern):
        raise unsupported(param, f"the pattern {problem}")
    return _HEAD + f"start: {_regex(pattern)}\n"


def of_language(grammar: str, param: str) -> str:
    """Convert a client's grammar: Lark, or llama.cpp's GBNF.

    Args:
        grammar: a grammar in either language.
        param: the request field that has it.

    Raises:
        InvalidRequest: it is neither, or too large.
    """
    if len(grammar) > _MAX_OWN:
        raise InvalidRequest(
            f"Invalid '{param}': it has {len(grammar):,} characters; at most {_MAX_OWN:,} are "
            "allowed.",
            param=param,
        )
    lark, problem = grammar_checker.lark(_BLANK_LINES.sub("\n\n", grammar))
    if problem:
        raise InvalidRequest(f"Invalid '{param}': {problem}.", param=param)
    if problem := grammar_checker.limit_problem(lark):
        raise unsupported(param, f"the grammar {problem}")
    for match in _JSON_RULE.finditer(lark):
        yield_to_others()
        _check_rule(lark, match.end(), param)
    return lark if lark.startswith("%llguidance") else _HEAD + lark


def of_calls(
    call_format: ToolCallFormat,
    functions: Sequence[dict[str, Any]],
    required: bool,
    several: bool,
    excluded_prefix: str = "",
    content: str | None = None,
) -> str:
    """Build a grammar for tool calls whose arguments match their schemas.

    Args:
        call_format: the model's format of tool calls.
        functions: functions that may be called, each with a name and a schema of its arguments.
        required: whether there must be a call; otherwise text is allowed instead or before.
        several: whether more than one call is allowed.
        excluded_prefix: a prefix that text must not have, such as a reasoning tag.
        content: the grammar of a completion without calls; None for any text.
    """
    between = call_format.between if several else None
    repeated = "" if between is None else f" ({_text(between)} call)*"
    calls = f"call{repeated} {_text(call_format.end)}"
    calls = calls if call_format.end else calls.removesuffix('""')
    rules = [
        f"call: {' | '.join(f'call_{n}' for n in range(len(functions)))}",
        *(_call(n, call_format, function) for n, function in enumerate(functions)),
    ]
    start = [f"start: {_text(call_format.begin)} {calls}"]
    if not required and content is not None:
        start = [f"start: answer | {_text(call_format.begin)} {calls}", _as_subgrammar(content)]
    elif not required:
        start = _or_text(call_format, calls, excluded_prefix)
    return _HEAD + "\n".join([*start, *rules]) + "\n"


def after_reasoning(grammar: str, tags: ReasoningTags, begun: bool) -> str:
    """Allow reasoning before the output that a grammar allows.

    Args:
        grammar: the grammar of the output.
        tags: the tags around the reasoning.
        begun: whether the prompt ends with the opening tag.
    """
    reason = f"reason[suffix={_text(tags.close)}]: /(.|\\n)*/"
    space = "/[ \\n]{0,4}/"
    opened = "reason" if begun else f"({_text(tags.open)} reason)?"
    return f"{_HEAD}start: {opened} {space} answer\n{reason}\n{_as_subgrammar(grammar)}"


def check(grammar: str, param: str) -> None:
    """Reject a grammar that engines cannot enforce.

    Args:
        grammar: a grammar built by this module.
        param: the request field that it comes from.

    Raises:
        InvalidRequest: it is too large or unsupported; the message has the reason.
    """
    check_size(len(grammar), param)
    if problem := grammar_checker.problem(grammar):
        raise unsupported(param, f"no engine can enforce it: {problem}")


def unsupported(param: str, problem: str) -> InvalidRequest:
    """Return the error of a schema or grammar that engines cannot enforce.

    Args:
        param: the request field that it comes from.
        problem: the problem, without a full stop.
    """
    return InvalidRequest(f"Invalid '{param}': {problem}.", param=param, code="unsupported_schema")


def check_size(size: int, param: str) -> None:
    """Reject an input that is too large, before it is processed, which could take many seconds.

    Args:
        size: size in bytes of the grammar or its source.
        param: the request field that it comes from.

    Raises:
        InvalidRequest: it is too large.
    """
    if size > MAX_BYTES:
        raise InvalidRequest(
            f"Invalid '{param}': its grammar has {size:,} bytes; at most {MAX_BYTES:,} are "
            "allowed. Shorten its enumerations.",
            param=param,
        )


def check_is_text(text: str, param: str, control: frozenset[str]) -> None:
    """Reject text that contains special tokens of the model: engines do not treat them as text.

    Args:
        text: a part of a grammar from the client.
        param: the request field that has it.
        control: the special tokens.

    Raises:
        InvalidRequest: the message names the token.
    """
    searched = 0
    for prefix, tokens in _by_prefix(control).items():
        for token in tokens if prefix in text else ():
            if token in text:
                raise InvalidRequest(
                    f"Invalid '{param}': it contains '{token}', a special token of this model.",
                    param=param,
                    code="unsupported_schema",
                )
            searched += len(text)
            if searched > _SEARCHED:
                searched = 0
                yield_to_others()


@functools.lru_cache(maxsize=64)
def _by_prefix(control: frozenset[str]) -> dict[str, list[str]]:
    """Group tokens by their first two characters, which most texts do not contain."""
    groups: dict[str, list[str]] = {}
    for token in sorted(control):
        groups.setdefault(token[:2], []).append(token)
    return groups


def _as_subgrammar(grammar: str) -> str:
    """Rename the rule `start` to `answer`, to use a grammar within another one."""
    body = grammar.removeprefix(_HEAD)
    return _START.sub(lambda match: "answer" if match[1] else match[0], body)


def _check_rule(lark: str, at: int, param: str) -> None:
    """Check a JSON Schema within a client's grammar."""
    try:
        schema, _ = json.JSONDecoder().raw_decode(lark, at)
    except (ValueError, RecursionError):
        return  # for the trial to report
    of_contract(schema, param)


def _or_text(call_format: ToolCallFormat, calls: str, excluded_prefix: str) -> list[str]:
    """Build rules for calls after any text, or for text that does not look like a call."""
    mark = _escaped(call_format.mark)
    # The output parser skips white space at the beginning.
    prefix = f" & ~/\\s*{_escaped(excluded_prefix)}(.|\\n)*/" if excluded_prefix else ""
    if not call_format.is_marked:
        return [
            f"start: free | {_text(call_format.begin)} {calls}",
            f"free: FREE\nFREE: /(.|\\n)*/ & ~/\\s*{mark}(.|\\n)*/{prefix}",
        ]
    rest = call_format.begin[len(call_format.mark) :]
    return [
        f"start: free | lead {_text(rest)} {calls}",
        f"lead[suffix={_text(call_format.mark)}]: LEAD\nLEAD: /(.|\\n)*/{prefix}",
        f"free: FREE\nFREE: /(.|\\n)*/ & ~/(.|\\n)*{mark}(.|\\n)*/{prefix}",
    ]


def _call(number: int, call_format: ToolCallFormat, function: dict[str, Any]) -> str:
    schema = function.get("parameters") or _ANY_OBJECT
    head = _text(function["name"] + call_format.middle)
    return f"call_{number}: {head} {_json(schema)}"


def _json(schema: Any) -> str:
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": _RULES}
    return "%json " + json.dumps(schema, ensure_ascii=False)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    return _slashes(re.escape(text).replace("\n", "\\n"))


def _regex(pattern: str) -> str:
    return f"/{_slashes(pattern)}/"


def _slashes(pattern: str) -> str:
    """Escape slashes, which delimit regular expressions in Lark."""
    escaped = re.sub(r"(\\.)|/", lambda match: match[1] or r"\/", pattern, flags=re.DOTALL)
    return escaped.replace("\n", "\\n")
