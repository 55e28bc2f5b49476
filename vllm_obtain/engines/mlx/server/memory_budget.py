"""Computes the memory of KV caches, because mx.set_memory_limit is only a guideline for mlx.

Sequences that decode together share one padded array: sequences x longest. So only sequences of
the same length class share it, and the budget accounts for these arrays, not for sequences.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

from .errors import ErrorResponse

# Caches grow by this many tokens at a time (KVCache.step).
STEP = 256
# Sequences up to this length share a batch whatever their lengths, if the model is large enough.
SHORT = 2048
# Beside this many others, a sequence's padding must cost less than another pass over the weights.
OTHER_SEQUENCES = 8
# Part of the memory beside the weights: activations, and copies while a sequence joins a batch.
WORK_FRACTION = 0.2


@dataclass(frozen=True)
class CacheCost:
    """Memory of one sequence's cache: bytes per token, and bytes independent of its length."""

    per_token: int
    fixed: int


def measure(model: Any) -> CacheCost:
    """Measure the caches that one token leaves."""
    caches = make_prompt_cache(model)
    mx.eval(model(mx.array([[0]]), cache=caches))
    per_token = fixed = 0
    for cache in caches:
        if isinstance(cache, KVCache):
            per_token += cache.nbytes // cache.keys.shape[2]
        elif (window := getattr(cache, "max_size", None)) is not None:
            fixed += window * (cache.nbytes // cache.keys.shape[2])
        else:
            fixed += cache.nbytes
    return CacheCost(per_token, fixed)


def weight_bytes(model: Any) -> int:
    """Return the size of the model's parameters."""
    from mlx.utils import tree_flatten

    return sum(value.nbytes for _, value in tree_flatten(model.parameters()))


class MemoryBudget:
    """The memory budget for KV caches.

    Args:
        cost: memory of one sequence's cache.
        budget: bytes for all caches; 0 for no limit.
        weights: bytes of weights that every pass reads.
    """

    def __init__(self, cost: CacheCost, budget: int, weights: int) -> None:
        self.cost = cost
        self.budget = budget
        balanced = weights // max(1, OTHER_SEQUENCES * cost.per_token) // STEP * STEP
        self._short = min(SHORT, max(STEP, balanced))

    def length_class(self, tokens: int) -> int:
        """Return the class of lengths that share a batch: all short ones, then factors of four.

        Every step reads padding like tokens. For a small model, reading the weights again is
        faster than reading the padding of eight sequences beside a long one.
        """
        bound, number = self._short, 0
        while tokens > bound:
            bound, number = bound * 4, number + 1
        return number

    @classmethod
    def plan(cls, model: Any, memory_bytes: int) -> MemoryBudget:
        """Compute the budget from the memory limit of the server.

        Args:
            model: a loaded model of mlx-lm.
            memory_bytes: memory that MLX may use, weights included; 0 for no limit.

        Raises:
            SystemExit: the weights leave no memory for a request.
        """
        cost, weights = measure(model), weight_bytes(model)
        if not memory_bytes:
            return cls(cost, 0, weights)
        budget = int((memory_bytes - weights) * (1 - WORK_FRACTION))
        if budget < batch_bytes(cost, [STEP]):
            raise SystemExit(
                f"The weights take {weights} of the {memory_bytes} bytes available to MLX, which "
                "leaves no memory for a request. Raise MLX_MEMORY_FRACTION, or use a smaller model."
            )
        return cls(cost, budget, weights)

    def check(self, tokens: int, prompt_tokens: int, choices: int = 1) -> None:
        """Reject a request whose cache does not fit even if it runs alone.

        Args:
            tokens: tokens of the prompt and of the completion that need space.
            prompt_tokens: tokens of the prompt.
            choices: number of choices.

        Raises:
            ErrorResponse: it does not fit.
        """
        needed = batch_bytes(self.cost, [tokens] * choices)
        if not self.budget or needed <= self.budget:
            return
        per_choice = self.budget // choices - self.cost.fixed
        max_tokens = max(0, per_choice // max(1, self.cost.per_token)) // STEP * STEP
        times = f"{choices} times " if choices > 1 else ""
        raise ErrorResponse(
            f"The KV cache of {times}{tokens} tokens ({prompt_tokens} in the prompt) needs "
            f"{needed} bytes, but {self.budget} are available, enough for {times}{max_tokens} "
            "tokens. Shorten the prompt, lower max_tokens, or raise MLX_MEMORY_FRACTION.",
            code="prefill_memory_exceeded",
            needed_bytes=needed,
            available_bytes=self.budget,
        )

    def used_bytes(self, lengths: Iterable[int]) -> int:
        """Return the bytes of the batches of sequences with these lengths."""
        classes: dict[int, list[int]] = {}
        for length in lengths:
            classes.setdefault(self.length_class(length), []).append(length)
        return sum(batch_bytes(self.cost, sequences) for sequences in classes.values())

    def fits(self, lengths: Iterable[int]) -> bool:
        """Whether sequences with these lengths fit together."""
        return not self.budget or self.used_bytes(lengths) <= self.budget


def batch_bytes(cost: CacheCost, lengths: list[int]) -> int:
    """Return the bytes of sequences that share one batch.

    Shorter ones are padded to the longest, whose length is rounded up to `STEP` tokens.
    """
    longest = -(-max(lengths) // STEP) * STEP
    return len(lengths) * (longest * cost.per_token + cost.fixed)
