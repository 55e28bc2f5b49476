"""Draws the next token of every row of a batch at once, each row by its own rules.

Order: penalties, logit_bias, top_k, top_p among what is left, min_p, then the temperature: as
llama.cpp does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from .penalties import Penalties
from .request import Sampling

_MASK = (1 << 64) - 1


class Sampler:
    """Made anew whenever the rows of a batch change.

    Args:
        rules: of each row.
        prompts: the tokens of each row's prompt.
        generated: the tokens each row has so far.
        pending: the token of each row that is being fed.
        fresh: the rows for which that is the end of their prompt, not a drawn token.
        vocabulary: how many logits there are.
    """

    def __init__(
        self,
        rules: Sequence[Sampling],
        prompts: Sequence[list[int]],
        generated: Sequence[list[int]],
        pending: mx.array,
        fresh: Sequence[bool],
        vocabulary: int,
    ) -> None:
        self._rules = rules
        self._greedy = mx.array([rule.temperature == 0 for rule in rules])
        self._heat = mx.array([[rule.temperature or 1.0] for rule in rules])
        self._all_greedy = all(rule.temperature == 0 for rule in rules)
        self._filter = _Filter(rules, vocabulary)
        self._bias = _bias_of(rules, vocabulary)
        self._penalties = (
            Penalties(rules, prompts, generated, pending, fresh, vocabulary)
            if any(rule.penalises for rule in rules)
            else None
        )

    def draw(
        self, logits: mx.array, positions: Sequence[int], allowed: mx.array | None = None
    ) -> mx.array:
        """Draw a token for each row.

        Args:
            logits: rows x vocabulary, as floats of 32 bits.
            positions: how many tokens each row has drawn before.
            allowed: what grammars leave of each row, as booleans; None if there are none.

        Returns:
            One token per row, not computed yet.
        """
        if self._penalties is not None:
            logits = self._penalties.apply(logits)
        if self._bias is not None:
            logits = logits + self._bias
        if allowed is not None:
            logits = mx.where(allowed, logits, -mx.inf)
        drawn = mx.argmax(logits, axis=-1)
        if not self._all_greedy:
            heated = self._filter.apply(logits) / self._heat
            keys = mx.array(
                [_key(rule.seed, at) for rule, at in zip(self._rules, positions, strict=True)],
                dtype=mx.uint32,
            )
            # A key per row: so a seed draws the same alone and in a batch.
            random = mx.vmap(lambda row, key: mx.random.categorical(row, key=key))(heated, keys)
            drawn = mx.where(self._greedy, drawn, random)
        drawn = drawn.astype(mx.uint32)
        if self._penalties is not None:
            self._penalties.note(drawn)
        return drawn


class _Filter:
    """Cuts off what is too unlikely, by one threshold per row.

    Equal logits at a threshold are all kept. Rows that cut nothing have the threshold -inf.
    """

    def __init__(self, rules: Sequence[Sampling], vocabulary: int) -> None:
        self._min_p = mx.array([[rule.min_p] for rule in rules]) if _any(rules, "min_p") else None
        # Greedy rows do not draw: what they say about drawing must not cost a sort.
        wanted = [_kept(rule, vocabulary) if rule.temperature else 0 for rule in rules]
        self._most = max(wanted)
        self._top_k = mx.array([[n or vocabulary] for n in wanted])
        self._cuts = mx.array([[bool(n)] for n in wanted])
        # Sums of floats can reach 1 before the last token: 1 has to mean all of them.
        tops = [2.0 if rule.top_p >= 1 else max(rule.top_p, 1e-9) for rule in rules]
        self._top_p = mx.array([[top] for top in tops])

    def apply(self, logits: mx.array) -> mx.array:
        low = mx.full((logits.shape[0], 1), -mx.inf)
        if self._most:
            low = mx.where(self._cuts, self._threshold(logits), low)
        if self._min_p is not None:
            best = mx.max(logits, axis=-1, keepdims=True)
            low = mx.maximum(low, mx.where(self._min_p > 0, best + mx.log(self._min_p), -mx.inf))
        return mx.where(logits >= low, logits, -mx.inf)

    def _threshold(self, logits: mx.array) -> mx.array:
        """Find the smallest logit that top_k and top_p keep."""
        most = self._most
        best = logits if most >= logits.shape[-1] else mx.topk(logits, most, axis=-1)
        best = -mx.sort(-best, axis=-1)
        kept = mx.arange(best.shape[-1])[None] < self._top_k
        shares = mx.softmax(mx.where(kept, best, -mx.inf), axis=-1)
        kept = kept & (mx.cumsum(shares, axis=-1) - shares < self._top_p)
        return mx.min(mx.where(kept, best, mx.inf), axis=-1, keepdims=True)


def _any(rules: Sequence[Sampling], name: str) -> bool:
    return any(getattr(rule, name) for rule in rules)


def _kept(rule: Sampling, vocabulary: int) -> int:
    """Count the logits that have to be sorted for a row; 0 for none."""
    if 0 < rule.top_k < vocabulary:
        return rule.top_k
    return vocabulary if rule.top_p < 1 else 0


def _bias_of(rules: Sequence[Sampling], vocabulary: int) -> Any:
    if not _any(rules, "logit_bias"):
        return None
    bias = mx.zeros((len(rules), vocabulary))
    for row, rule in enumerate(rules):
        if rule.logit_bias:
            bias[row, mx.array(list(rule.logit_bias))] = mx.array(list(rule.logit_bias.values()))
    return bias


def _key(seed: int, position: int) -> tuple[int, int]:
    """Mix a seed and a position into mlx's two words of randomness (SplitMix64)."""
    # Seeds above 64 bits are those of further choices.
    value = (seed + (seed >> 64) * 0xD1342543DE82EF95 + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    value ^= value >> 31
    return value >> 32, value & 0xFFFFFFFF
