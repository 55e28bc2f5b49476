"""Prompts on their way into caches, a bounded piece at a time."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from .row import Row


class Prefill:
    """One prompt.

    Args:
        model: mlx-lm's model.
        row: whose prompt it is.
        caches: with the beginning of the prompt in them, or None.
        done: how many tokens that is.
    """

    def __init__(self, model: Any, row: Row, caches: list[Any] | None, done: int) -> None:
        self.row = row
        self.done = done
        self.caches = make_prompt_cache(model) if caches is None else caches
        self._model = model

    @property
    def left(self) -> int:
        """Tokens to process; the last one is not among them, it makes the first logits."""
        return len(self.row.request.tokens) - 1 - self.done

    def advance(self, most: int) -> int:
        """Process up to so many tokens.

        Returns:
            How many it were.
        """
        piece = self.row.request.tokens[self.done : self.done + min(most, self.left)]
        if piece:
            self._model(mx.array([piece], dtype=mx.uint32), cache=self.caches)
            # Only the caches: nobody needs the logits of a prompt, so they are never computed.
            mx.eval([cache.state for cache in self.caches])
            self.done += len(piece)
        return len(piece)


def pick(prompts: list[Prefill], turn: int) -> Prefill:
    """Choose whose piece is next.

    By turns the one that has the least left, so that a short prompt does not wait behind a long
    one, and the oldest, so that short ones cannot keep it out for ever.
    """
    return min(prompts, key=lambda prompt: prompt.left) if turn % 2 else prompts[0]
