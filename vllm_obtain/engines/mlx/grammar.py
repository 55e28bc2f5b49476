"""Answers of a form: what a grammar allows next, as a mask over the vocabulary.

llguidance.mlx needs Metal, so its masks come as bytes and are applied with `mx.where`. A grammar
that it cannot hold is refused; none is accepted and then not enforced.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from .errors import Refusal


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
    """Compiles grammars in llguidance's own Lark; from any thread but the one that generates.

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
        grammar = body.get("grammar")
        if grammar is None:
            return None
        if not isinstance(grammar, str):
            raise _refused("it must be a text")
        with self._one_at_a_time:
            return self._compile(grammar)

    def _compile(self, source: str) -> Grammar:
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
            grammar = LLMatcher.grammar_from_lark(source)
        except ValueError as error:
            raise _refused(str(error)) from None
        matcher = LLMatcher(self._table, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # some limits are only met here
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return Grammar(matcher)


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


def _refused(why: str) -> Refusal:
    return Refusal(f"'grammar' cannot be honoured: {why}.", param="grammar")
