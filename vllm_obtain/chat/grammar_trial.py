"""Compiles clients' grammars, and validates values against clients' schemas. Runs in the sandbox.

A few bytes of a grammar can take minutes to compile, or overflow the stack, which cannot be
caught. The same holds for values that are validated against a client's schema. Imports only the
standard library, llguidance and jsonschema-rs.
"""

from __future__ import annotations

import functools
import json
import re
from itertools import islice
from typing import Any

from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

# The values of the label `keyword` in the metrics; others are `other`.
_KEYWORDS = frozenset(
    "type enum const required properties additionalProperties patternProperties propertyNames "
    "minProperties maxProperties dependentRequired dependentSchemas dependencies items prefixItems "
    "additionalItems contains minContains maxContains uniqueItems minItems maxItems pattern "
    "minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum multipleOf allOf anyOf "
    "oneOf not if then else unevaluatedProperties unevaluatedItems".split()
)
_WHERE = re.compile(r"^at \d+\(\d+\): |^failed to compile JSON schema: ")

_MOST_VIOLATIONS = 16
_BACKTRACKS = 100_000


def violations(schema: str, value: str) -> list[str] | None:
    """Return the keywords of a schema that a JSON value violates.

    Returns:
        None if the schema is invalid or refers to others, or the value is no JSON.
    """
    import jsonschema_rs  # takes 10 MB, and most services never need it

    def refuse(uri: str) -> Any:
        raise ValueError(f"{uri} is not loaded")

    try:
        validator = jsonschema_rs.validator_for(
            json.loads(schema),
            retriever=refuse,
            validate_formats=False,
            pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKS),
        )
        errors = islice(validator.iter_errors(json.loads(value)), _MOST_VIOLATIONS)
        paths = [[str(step) for step in error.schema_path] for error in errors]
    except (ValueError, RecursionError, jsonschema_rs.ReferencingError):
        return None
    keywords = {path[-1] if path and path[-1] in _KEYWORDS else "other" for path in paths}
    return sorted(keywords)


def problem(grammar: str) -> str:
    """Return the problem of a grammar; empty if there is none."""
    matcher = LLMatcher(_tokenizer(), grammar, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()  # some limits apply only here
    if not matcher.is_error():
        return ""
    # The first line has the cause, except for regular expressions; the others show the grammar.
    lines = str(matcher.get_error()).strip().splitlines()
    causes = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    message = causes[0] if causes else lines[0]
    while match := _WHERE.match(message):
        message = message[match.end() :]
    return message.rstrip(".")


def lark(grammar: str) -> tuple[str, str]:
    """Convert a grammar in Lark or GBNF to Lark.

    Returns:
        The grammar, and why it cannot be converted; one of them is empty.
    """
    try:
        return str(any_to_lark(grammar)), ""
    except Exception as error:
        return "", str(error)


@functools.cache
def _tokenizer() -> LLTokenizer:
    return LLTokenizer("byte")
