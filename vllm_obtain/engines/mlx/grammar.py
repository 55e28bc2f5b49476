"""Answers of a form: what a grammar or a schema allows next, as a mask over the vocabulary.

llguidance.mlx needs Metal, so its masks come as bytes and are applied with `mx.where`. A schema
that it cannot hold is refused; none is accepted and then not enforced.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from .errors import Refusal

# Compiling is bounded by llguidance's own limits, which count symbols: this bounds the reading.
MAX_SCHEMA = 1 << 18
# Without a bound small models write spaces until `max_tokens`.
WHITE_SPACE = r"( |\n {0,16})?"
_RULES = {
    "whitespace_flexible": True,
    "whitespace_pattern": WHITE_SPACE,
    "lenient": False,
    "coerce_one_of": False,
}


class GrammarBroken(Exception):
    """llguidance gave up in the middle of an answer."""


class Grammar:
    """A compiled grammar.

    Args:
        first: its matcher, at the beginning; every choice gets a copy.
    """

    def __init__(self, first: Any) -> None:
        self._first = first

    def matcher(self) -> Matcher:
        """Begin an answer."""
        return Matcher(self._first.deep_copy())


class Matcher:
    """Where one answer is in its grammar.

    Args:
        matcher: llguidance's.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def take(self, token: int) -> None:
        """Go on by a token; one that is not allowed ends the grammar (see `mask`)."""
        self._matcher.consume_token(token)

    def mask(self) -> bytes | None:
        """Tell what may come next, a bit per token; None if llguidance gave up."""
        return None if self._matcher.is_error() else bytes(self._matcher.compute_bitmask())

    @property
    def problem(self) -> str | None:
        """What made llguidance give up, if it did."""
        return str(self._matcher.get_error()) if self._matcher.is_error() else None


class Grammars:
    """Compiles `grammar` and `response_format`; from any thread but the one that generates.

    Args:
        tokenizer: mlx-lm's wrapper.
        vocabulary: how many tokens the model knows.
    """

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._table: Any = None
        self._one_at_a_time = threading.Lock()

    def read(self, body: dict[str, Any]) -> Grammar | None:
        """Compile what a body asks for; None for plain text.

        Raises:
            Refusal: it is malformed, or cannot be held.
        """
        if (grammar := body.get("grammar")) is not None:
            with self._one_at_a_time:
                return self._compile(_language, grammar)
        schema = _schema(body.get("response_format"))
        if schema is None:
            return None
        text = json.dumps(schema)
        if len(text) > MAX_SCHEMA:
            raise _refused(f"the schema has {len(text)} bytes and {MAX_SCHEMA} are allowed")
        with self._one_at_a_time:
            return self._compile(_of_schema, text)

    def _compile(self, read: Callable[[str], str], source: str) -> Grammar:
        try:
            from llguidance import LLMatcher, hf
        except ImportError:
            raise _refused("llguidance is not installed (pip install llguidance)") from None
        if self._table is None:
            # Takes a second with large vocabularies, so not before somebody asks.
            # The wrapper hides the tokenizer that llguidance understands.
            inner = self._tokenizer._tokenizer
            ends = sorted(self._tokenizer.eos_token_ids)
            try:
                self._table = hf.from_tokenizer(inner, self._vocabulary, ends)
            except ValueError as error:
                raise _refused(f"this model's tokenizer cannot be used for it: {error}") from None
        try:
            grammar = read(source)
        except ValueError as error:
            raise _refused(str(error)) from None
        matcher = LLMatcher(self._table, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # some limits are only met here
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return Grammar(matcher)


def _of_schema(schema: str) -> str:
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_json_schema(schema, overrides=_RULES))


def _language(grammar: Any) -> str:
    """Take a grammar in llguidance's own Lark."""
    from llguidance import LLMatcher

    if not isinstance(grammar, str):
        raise Refusal("'grammar' must be a text.", param="grammar")
    return str(LLMatcher.grammar_from_lark(grammar))


def forbid(matchers: Sequence[Matcher | None], vocabulary: int) -> mx.array:
    """Work out which tokens each row may draw; all of them where there is no grammar.

    Args:
        matchers: of each row.
        vocabulary: how many logits there are.

    Returns:
        Booleans, rows x vocabulary.
    """
    words = -(-vocabulary // 32)
    free = b"\xff" * (4 * words)
    masks = [(free if matcher is None else matcher.mask() or free) for matcher in matchers]
    joined = b"".join(mask[: 4 * words].ljust(4 * words, b"\0") for mask in masks)
    bits = mx.array(memoryview(joined).cast("I")).reshape(len(masks), words, 1)
    spread = (bits >> mx.arange(32, dtype=mx.uint32)) & 1
    return spread.reshape(len(masks), -1)[:, :vocabulary].astype(mx.bool_)


def _schema(wanted: Any) -> Any:
    """Find the schema in a `response_format`."""
    if wanted is None:
        return None
    if not isinstance(wanted, dict):
        raise _refused("it must be an object")
    match wanted.get("type"):
        case "text":
            return None
        case "json_object":
            return {"type": "object"}
        case "json_schema":
            named = wanted.get("json_schema")
            schema = named.get("schema") if isinstance(named, dict) else None
            if not isinstance(schema, dict):
                raise _refused("'json_schema' must be an object with a 'schema'")
            return schema
    raise _refused("its type must be text, json_object or json_schema")


def _refused(why: str) -> Refusal:
    return Refusal(f"'response_format' cannot be honoured: {why}.", param="response_format")
