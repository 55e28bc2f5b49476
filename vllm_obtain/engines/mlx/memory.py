"""What caches take, by formula: mx.set_memory_limit is only a guideline to mlx.

Rows that decode together share one dense rectangle, rows x longest. So rows share it only with
those of their length class, and the rectangle is what is accounted for, not the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

from .errors import Refusal

# Caches grow by so many tokens at a time (KVCache.step).
STEP = 256
# Rows up to so long share a rectangle whatever they differ, if the model is large enough.
SHORT = 2048
# Beside so many others a row's padding shall cost less than another pass over the weights.
BESIDE = 8
# Of what the weights leave: for activations and for the copy while a row joins a rectangle.
WORK_FRACTION = 0.2


@dataclass(frozen=True)
class Cost:
    """What the cache of one row takes: bytes per token, and bytes however short it is."""

    per_token: int
    fixed: int


def measure(model: Any) -> Cost:
    """Run one token through the model and look at the caches it left."""
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
    return Cost(per_token, fixed)


def weight_bytes(model: Any) -> int:
    """Add up the model's parameters."""
    from mlx.utils import tree_flatten

    return sum(value.nbytes for _, value in tree_flatten(model.parameters()))


class Memory:
    """What may be taken, and what is.

    Args:
        cost: of a row.
        budget: bytes for all caches; 0 for no bound.
        weights: bytes that every pass reads.
    """

    def __init__(self, cost: Cost, budget: int, weights: int) -> None:
        self.cost = cost
        self.budget = budget
        fair = weights // max(1, BESIDE * cost.per_token) // STEP * STEP
        self._short = min(SHORT, max(STEP, fair))

    def length_class(self, tokens: int) -> int:
        """Tell which lengths share a rectangle: all short ones, then each fourfold.

        Padding is read in every step as if it were tokens. A small model's weights are read sooner
        than the padding of eight rows beside a long one.
        """
        bound, number = self._short, 0
        while tokens > bound:
            bound, number = bound * 4, number + 1
        return number

    @classmethod
    def plan(cls, model: Any, memory_bytes: int) -> Memory:
        """Divide what the server may take.

        Raises:
            SystemExit: the weights alone are too large.
        """
        cost, weights = measure(model), weight_bytes(model)
        if not memory_bytes:
            return cls(cost, 0, weights)
        budget = int((memory_bytes - weights) * (1 - WORK_FRACTION))
        if budget < rectangle(cost, [STEP]):
            raise SystemExit(
                f"The weights take {weights} of the {memory_bytes} bytes that MLX may take, which "
                "leaves no room for a request. Raise MLX_MEMORY_FRACTION, or use a smaller model."
            )
        return cls(cost, budget, weights)

    def check(self, tokens: int, prompt_tokens: int, choices: int = 1) -> None:
        """Refuse a request whose cache cannot fit even when it is alone.

        Args:
            tokens: of its prompt and of the answer it must have room for.
            prompt_tokens: of its prompt.
            choices: how many answers it asks for.

        Raises:
            Refusal: it cannot.
        """
        needed = rectangle(self.cost, [tokens] * choices)
        if not self.budget or needed <= self.budget:
            return
        each = self.budget // choices - self.cost.fixed
        fits = max(0, each // max(1, self.cost.per_token)) // STEP * STEP
        times = f"{choices} times " if choices > 1 else ""
        raise Refusal(
            f"The cache of {times}{tokens} tokens ({prompt_tokens} of the prompt) takes {needed} "
            f"bytes and {self.budget} are there, enough for {times}{fits} tokens. Shorten the "
            "prompt, lower max_tokens, or raise MLX_MEMORY_FRACTION.",
            code="prefill_memory_exceeded",
            needed_bytes=needed,
            available_bytes=self.budget,
        )

    def taken(self, lengths: Iterable[int]) -> int:
        """Add up the rectangles of rows that grow to these lengths."""
        classes: dict[int, list[int]] = {}
        for length in lengths:
            classes.setdefault(self.length_class(length), []).append(length)
        return sum(rectangle(self.cost, rows) for rows in classes.values())

    def fits(self, lengths: Iterable[int]) -> bool:
        """Tell whether such rows fit together."""
        return not self.budget or self.taken(lengths) <= self.budget


def rectangle(cost: Cost, lengths: list[int]) -> int:
    """Work out the bytes of rows that share one rectangle."""
    longest = -(-max(lengths) // STEP) * STEP
    return len(lengths) * (longest * cost.per_token + cost.fixed)
