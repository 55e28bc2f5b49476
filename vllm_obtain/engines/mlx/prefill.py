"""Prompts on their way into caches, a bounded piece at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

from .row import Row


class Prefill:
    """One prompt.

    Args:
        model: mlx-lm's model.
        rows: whose prompt it is: one row per choice.
        caches: with the beginning of the prompt in them, or None.
        done: how many tokens that is.
        step: pieces are padded to multiples of so many tokens, where that can be taken back.
    """

    def __init__(
        self, model: Any, rows: list[Row], caches: list[Any] | None, done: int, step: int = 1
    ) -> None:
        self.rows = rows
        self.tokens = rows[0].request.tokens
        self.done = done
        self.caches = make_prompt_cache(model) if caches is None else caches
        self._model = model
        self._step = step
        self._open: list[list[Any]] = []  # layers of the current piece that are still to compute

    @property
    def left(self) -> int:
        """Tokens to process; the last one is not among them, it makes the first logits."""
        return len(self.tokens) - 1 - self.done

    @property
    def plain(self) -> bool:
        """Whether what was processed can be taken back, and put beside others."""
        return all(type(cache) is KVCache for cache in self.caches)

    @property
    def whole(self) -> bool:
        """Whether other prompts can be processed in the same pass."""
        return self.plain and not self._open

    @property
    def ready(self) -> bool:
        """Whether everything is processed."""
        return not (self.left or self._open)

    def advance(self, most: int, parts: int = 1) -> int:
        """Process a part of a piece of up to so many tokens.

        mlx computes what is asked for and no more, so a piece can be computed some layers at a
        time: the pause that it makes for others gets shorter, and its own work stays large.
        Asking takes Python some milliseconds for all layers together: a call of its own then.

        Args:
            most: tokens of a piece.
            parts: in so many calls and one more, as long as there are as many layers.

        Returns:
            How many tokens were begun.
        """
        begun = 0 if self._open else self._begin(most, parts)
        if self._open and (parts == 1 or not begun):
            # Only the caches: nobody needs the logits of a prompt, so they are never computed.
            # The last piece need not be waited for: the first token depends on it.
            layers = self._open.pop(0)
            (mx.async_eval if self.ready else mx.eval)([cache.state for cache in layers])
        return begun

    def settle(self) -> None:
        """Have what was begun computed to its end: then the caches can be kept."""
        mx.async_eval([cache.state for layers in self._open for cache in layers])
        self._open = []

    def _begin(self, most: int, parts: int) -> int:
        piece = self.tokens[self.done : self.done + min(most, self.left)]
        if piece:
            padding = -len(piece) % self._step if self.plain else 0
            self._model(mx.array([piece + [0] * padding], dtype=mx.uint32), cache=self.caches)
            for cache in self.caches if padding else ():
                cache.trim(padding)
            self.done += len(piece)
            each = -(-len(self.caches) // parts)
            layers = range(0, len(self.caches), each)
            self._open = [self.caches[first : first + each] for first in layers]
        return len(piece)

    def rectangle(self) -> list[Any]:
        """Give the caches away, once for each choice."""
        if len(self.rows) == 1:
            return self.caches
        return [cache.merge([cache] * len(self.rows)) for cache in self.caches]


def batchable(caches: list[Any]) -> bool:
    """Tell whether rows with such caches can decode together."""
    return all(hasattr(cache, "merge") for cache in caches)


def finish(model: Any, prompts: Sequence[Prefill], step: int = 1) -> list[Any]:
    """Process all that is left of several plain prompts in one pass.

    Args:
        model: mlx-lm's model.
        prompts: whose rest it is.
        step: the pass is as wide as a multiple of so many tokens.

    Returns:
        The caches, as a rectangle of all their choices.
    """
    layers = zip(*(prompt.caches for prompt in prompts), strict=True)
    caches = [layer[0].merge(list(layer)) for layer in layers]
    longest = max(prompt.left for prompt in prompts)
    longest += -longest % step
    if longest:
        padding = [longest - prompt.left for prompt in prompts]
        if any(padding):
            for cache in caches:
                cache.prepare(lengths=[prompt.left for prompt in prompts], right_padding=padding)
        pieces = [
            prompt.tokens[prompt.done : -1] + [0] * empty
            for prompt, empty in zip(prompts, padding, strict=True)
        ]
        model(mx.array(pieces, dtype=mx.uint32), cache=caches)
        if any(padding):
            for cache in caches:
                cache.finalize()
        mx.async_eval([(cache.keys, cache.values) for cache in caches])
    choices = [number for number, prompt in enumerate(prompts) for _ in prompt.rows]
    if len(choices) > len(prompts):
        for cache in caches:
            cache.filter(choices)
    for prompt in prompts:
        prompt.done = len(prompt.tokens) - 1
    return caches


def pick(prompts: list[Prefill], turn: int, most: int, step: int = 1) -> list[Prefill]:
    """Choose whose pieces are next, one prompt's or all the rest of several.

    By turns the one that has the least left, so that a short prompt does not wait behind a long
    one, and the oldest, so that short ones cannot keep it out for ever. Others that can be
    finished in the same pass come along.

    Args:
        prompts: at least one, the oldest first.
        turn: counts the calls.
        most: tokens of a pass, padding included.
        step: what lengths are padded to. Where that matters, so do numbers of rows: more than
            four come in fours.
    """
    by_length = sorted(prompts, key=lambda prompt: prompt.left)
    first = by_length[0] if turn % 2 else prompts[0]
    picked = [first]
    if first.whole and first.left <= most:
        for prompt in by_length:
            longest = max(prompt.left, first.left, *(one.left for one in picked))
            longest += -longest % step
            if prompt is not first and prompt.whole and (len(picked) + 1) * longest <= most:
                picked.append(prompt)
    return picked[: len(picked) // 4 * 4] if step > 1 and len(picked) > 4 else picked
