"""Bounds the numbers in schemas, regular expressions and grammars: they cost time and memory."""

from __future__ import annotations

import re
from decimal import Decimal

# Measured with llguidance 1.0.1 of llama.cpp, which copies the items, and a vocabulary of 152,000
# tokens: 4,096 items compile in 15 ms, 40,000 in 0.3 s and 55 MB; more than 65,000 are an error.
MAX_COUNT = 4096
# Items of all arrays of a grammar.
MAX_ITEMS = 16_384
# Lengths of strings cost nothing; nobody generates a longer one.
MAX_LENGTH = 1_000_000
# Digits without the decimal point. 10,000 compiles in 30 ms, 86,400 in 0.1 s, 9,999,991 in 9 s.
# From 65,536 on, masks of large vocabularies exceed a limit of llguidance.
MAX_MULTIPLE = 10_000
_MAX_DECIMALS = 6
# Of each repetition, and of the product of nested ones. llguidance compiles larger ones lazily, but
# then exceeds its own limits while it samples: `(a{1,1000}){1,1000}` does.
MAX_REPETITIONS = 4096
# Characters of a regular expression.
MAX_PATTERN = 16_384
_DIGITS = 9
_MARKS = re.compile(r"\\.|\[\^?\]?|\]|\(\?(?:[=!]|<[=!])|\(|\)|\{(\d*)(?:,(\d*))?\}", re.DOTALL)
# Look-around, word boundaries, references and control characters.
_UNSUPPORTED = re.compile(r"\(\?|\\[bBGZkc1-9]")
# In grammars: texts, comments, regular expressions, repetitions of Lark and GBNF.
_PARTS = re.compile(
    r'"(?:\\.|[^"\\\n])*"|//[^\n]*|#[^\n]*|(/(?:\\.|[^/\\\n])+/)|\{(\d*)(?:,(\d*))?\}'
    r"|~\s*(\d+)(?:\s*\.\.\s*(\d+))?"
)


def pattern_problem(pattern: object) -> str:
    """Check a regular expression, in linear time.

    Returns:
        The problem, to follow the name of the field; empty if there is none.
    """
    if not isinstance(pattern, str):
        return "must be a string"
    if len(pattern) > MAX_PATTERN:
        return f"has {len(pattern):,} characters; at most {MAX_PATTERN:,} are supported. Shorten it"
    in_class = False
    groups, last, end = [1], 1, -1
    for match in _MARKS.finditer(pattern):
        mark = match.group()
        if in_class:
            in_class = mark != "]"
        elif mark[0] == "[":
            in_class = True
        elif _UNSUPPORTED.match(mark):
            return f"has {mark}, which no engine can enforce. Remove it"
        elif mark == "(":
            groups.append(1)
        elif mark == ")" and len(groups) > 1:
            last, end = groups.pop(), match.end()
            groups[-1] = max(groups[-1], last)
        elif mark[0] == "{":
            last = _count(match[1], match[2]) * (last if end == match.start() else 1)
            end = match.end()
            if last > MAX_REPETITIONS:
                return _too_many()
            groups[-1] = max(groups[-1], last)
    return ""


def grammar_problem(grammar: str) -> str:
    """Check the repetitions in a Lark or GBNF grammar, in linear time; results as above."""
    for match in _PARTS.finditer(grammar):
        if match[1] and (problem := pattern_problem(match[1][1:-1])):
            return problem
        if max(_count(match[2], match[3]), _count(match[4], match[5])) > MAX_REPETITIONS:
            return _too_many()
    return ""


def _count(*digits: str | None) -> int:
    return max(MAX_REPETITIONS + 1 if len(d) > _DIGITS else int(d) for d in (*digits, "1") if d)


def _too_many() -> str:
    return (
        f"repeats more than {MAX_REPETITIONS:,} times; nested repetitions multiply. Use a lower "
        "count"
    )


def is_small_multiple(value: object) -> bool:
    """Whether a value of `multipleOf` is supported."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        return False
    if value > MAX_MULTIPLE:
        return False
    _, digits, exponent = Decimal(str(value)).normalize().as_tuple()
    if not isinstance(exponent, int) or exponent < -_MAX_DECIMALS:
        return False
    number = int("".join(map(str, digits))) * 10 ** max(exponent, 0)
    return bool(number <= MAX_MULTIPLE)
