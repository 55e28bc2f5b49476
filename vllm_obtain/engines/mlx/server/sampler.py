"""Samples the next token of every sequence of a batch at once, each with its own parameters.

Order as in llama.cpp: penalties, logit_bias, top_k, top_p of the remaining tokens, min_p,
temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from .penalties import Penalties
from .request import Sampling

_MASK = (1 << 64) - 1


class Sampler:
    """Recreated whenever the sequences of a batch change.

    Args:
        params: sampling parameters of each sequence.
        prompts: prompt tokens of each sequence.
        generated: generated tokens of each sequence.
        pending: the input token of each sequence.
        fresh: sequences whose input token is the last of the prompt, not a sampled one.
        vocabulary: number of logits.
    """

    def __init__(
        self,
        params: Sequence[Sampling],
        prompts: Sequence[list[int]],
        generated: Sequence[list[int]],
        pending: mx.array,
        fresh: Sequence[bool],
        vocabulary: int,
    ) -> None:
        self._params = params
        self._greedy = mx.array([param.temperature == 0 for param in params])
        self._temperature = mx.array([[param.temperature or 1.0] for param in params])
        self._all_greedy = all(param.temperature == 0 for param in params)
        self._filter = _Filter(params, vocabulary)
        self._bias = _bias_of(params, vocabulary)
        self._penalties = (
            Penalties(params, prompts, generated, pending, fresh, vocabulary)
            if any(param.penalises for param in params)
            else None
        )

    def sample(
        self, logits: mx.array, positions: Sequence[int], allowed: mx.array | None = None
    ) -> mx.array:
        """Sample a token for each sequence.

        Args:
            logits: float32 array of shape (sequences, vocabulary).
            positions: number of tokens that each sequence has sampled before.
            allowed: tokens that grammars allow, as booleans; None without grammars.

        Returns:
            One token per sequence, not computed yet.
        """
        if self._penalties is not None:
            logits = self._penalties.apply(logits)
        if self._bias is not None:
            logits = logits + self._bias
        if allowed is not None:
            logits = mx.where(allowed, logits, -mx.inf)
        sampled = mx.argmax(logits, axis=-1)
        if not self._all_greedy:
            scaled = self._filter.apply(logits) / self._temperature
            keys = mx.array(
                [_key(param.seed, at) for param, at in zip(self._params, positions, strict=True)],
                dtype=mx.uint32,
            )
            # A key per sequence, so that a seed samples the same alone and in a batch.
            random = mx.vmap(
                lambda logits_of_one, key: mx.random.categorical(logits_of_one, key=key)
            )(scaled, keys)
            sampled = mx.where(self._greedy, sampled, random)
        sampled = sampled.astype(mx.uint32)
        if self._penalties is not None:
            self._penalties.count(sampled)
        return sampled


class _Filter:
    """Removes unlikely tokens with one threshold per sequence.

    Logits equal to the threshold are kept. Sequences without a limit have the threshold -inf.
    """

    def __init__(self, params: Sequence[Sampling], vocabulary: int) -> None:
        self._min_p = (
            mx.array([[param.min_p] for param in params]) if _any_set(params, "min_p") else None
        )
        # Greedy sequences do not sample, so their top_k and top_p must not cost a sort.
        sort_sizes = [_sort_size(param, vocabulary) if param.temperature else 0 for param in params]
        self._most = max(sort_sizes)
        self._top_k = mx.array([[n or vocabulary] for n in sort_sizes])
        self._is_limited = mx.array([[bool(n)] for n in sort_sizes])
        # Sums of floats can reach 1 before the last token, but 1 has to mean all tokens.
        top_ps = [2.0 if param.top_p >= 1 else max(param.top_p, 1e-9) for param in params]
        self._top_p = mx.array([[top] for top in top_ps])

    def apply(self, logits: mx.array) -> mx.array:
        low = mx.full((logits.shape[0], 1), -mx.inf)
        if self._most:
            low = mx.where(self._is_limited, self._threshold(logits), low)
        if self._min_p is not None:
            best = mx.max(logits, axis=-1, keepdims=True)
            low = mx.maximum(low, mx.where(self._min_p > 0, best + mx.log(self._min_p), -mx.inf))
        return mx.where(logits >= low, logits, -mx.inf)

    def _threshold(self, logits: mx.array) -> mx.array:
        """Return the smallest logit that top_k and top_p keep."""
        most = self._most
        best = logits if most >= logits.shape[-1] else mx.topk(logits, most, axis=-1)
        best = -mx.sort(-best, axis=-1)
        kept = mx.arange(best.shape[-1])[None] < self._top_k
        shares = mx.softmax(mx.where(kept, best, -mx.inf), axis=-1)
        kept = kept & (mx.cumsum(shares, axis=-1) - shares < self._top_p)
        return mx.min(mx.where(kept, best, mx.inf), axis=-1, keepdims=True)


def _any_set(params: Sequence[Sampling], name: str) -> bool:
    return any(getattr(param, name) for param in params)


def _sort_size(param: Sampling, vocabulary: int) -> int:
    """Return the number of logits to sort for a sequence; 0 for none."""
    if 0 < param.top_k < vocabulary:
        return param.top_k
    return vocabulary if param.top_p < 1 else 0


def _bias_of(params: Sequence[Sampling], vocabulary: int) -> Any:
    if not _any_set(params, "logit_bias"):
        return None
    bias = mx.zeros((len(params), vocabulary))
    for index, param in enumerate(params):
        if param.logit_bias:
            bias[index, mx.array(list(param.logit_bias))] = mx.array(
                list(param.logit_bias.values())
            )
    return bias


def _key(seed: int, position: int) -> tuple[int, int]:
    """Mix a seed and a position into mlx's two words of randomness (SplitMix64)."""
    # Seeds above 64 bits belong to further choices.
    value = (seed + (seed >> 64) * 0xD1342543DE82EF95 + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    value ^= value >> 31
    return value >> 32, value & 0xFFFFFFFF
