"""Structured output: a mask over the vocabulary with the tokens that a grammar allows next.

llguidance.mlx requires Metal, so masks are computed as bytes and applied with `mx.where`. An
unsupported grammar is rejected; none is accepted without being enforced.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from .errors import ErrorResponse


class Grammar:
    """A compiled grammar.

    Args:
        first: a matcher in its initial state; every choice gets a copy.
    """

    def __init__(self, first: Any) -> None:
        self._first = first

    def matcher(self) -> Matcher:
        """Create a matcher for one completion."""
        return Matcher(self._first.deep_copy())


class Matcher:
    """The state of one completion in its grammar.

    Args:
        matcher: llguidance's matcher.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def consume(self, token: int) -> None:
        """Advance by a token. A token that is not allowed ends the matching (see `mask`)."""
        self._matcher.consume_token(token)

    def mask(self) -> bytes | None:
        """Return the allowed next tokens as a bit mask; None after an error of llguidance."""
        return None if self._matcher.is_error() else bytes(self._matcher.compute_bitmask())

    @property
    def problem(self) -> str | None:
        """The error of llguidance, or None."""
        return str(self._matcher.get_error()) if self._matcher.is_error() else None


class GrammarCompiler:
    """Compiles grammars in llguidance's Lark, on any thread but the generation thread.

    Args:
        tokenizer: mlx-lm's tokenizer wrapper.
        vocabulary: size of the model's vocabulary.
    """

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._table: Any = None
        self._lock = threading.Lock()

    def read(self, body: dict[str, Any]) -> Grammar | None:
        """Compile the grammar of a body; None if it has none.

        Raises:
            ErrorResponse: the grammar is malformed or unsupported.
        """
        grammar = body.get("grammar")
        if grammar is None:
            return None
        if not isinstance(grammar, str):
            raise _unsupported("it must be a string")
        with self._lock:
            return self._compile(grammar)

    def _compile(self, source: str) -> Grammar:
        try:
            from llguidance import LLMatcher, hf
        except ImportError:
            raise _unsupported("llguidance is not installed (pip install llguidance)") from None
        if self._table is None:
            # Takes a second with large vocabularies, so it is done on first use. llguidance does
            # not support mlx-lm's wrapper, but the tokenizer in it.
            inner = self._tokenizer._tokenizer
            ends = sorted(self._tokenizer.eos_token_ids)
            try:
                self._table = hf.from_tokenizer(inner, self._vocabulary, ends)
            except ValueError as error:
                raise _unsupported(f"this model's tokenizer is not supported: {error}") from None
        try:
            grammar = LLMatcher.grammar_from_lark(source)
        except ValueError as error:
            raise _unsupported(str(error)) from None
        matcher = LLMatcher(self._table, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # some limits apply only here
        if matcher.is_error():
            raise _unsupported(matcher.get_error())
        return Grammar(matcher)


def allowed_tokens(matchers: Sequence[Matcher | None], vocabulary: int) -> mx.array:
    """Return the tokens that each sequence may sample; all of them without a grammar.

    Args:
        matchers: the matcher of each sequence.
        vocabulary: number of logits.

    Returns:
        Booleans of shape (sequences, vocabulary).
    """
    words = -(-vocabulary // 32)
    free = b"\xff" * (4 * words)
    masks = [(free if matcher is None else matcher.mask() or free) for matcher in matchers]
    joined = b"".join(mask[: 4 * words].ljust(4 * words, b"\0") for mask in masks)
    bits = mx.array(memoryview(joined).cast("I")).reshape(len(masks), words, 1)
    spread = (bits >> mx.arange(32, dtype=mx.uint32)) & 1
    return spread.reshape(len(masks), -1)[:, :vocabulary].astype(mx.bool_)


def _unsupported(reason: str) -> ErrorResponse:
    return ErrorResponse(f"'grammar' is not supported: {reason}.", param="grammar")
