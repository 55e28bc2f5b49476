"""Prefill of prompts in chunks of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

from .sequence import SequenceState


class Prefill:
    """The prefill of one prompt.

    Args:
        model: mlx-lm's model.
        sequences: the sequences with this prompt, one per choice.
        caches: caches that hold a prefix of the prompt, or None.
        done: number of tokens of that prefix.
        step: chunks are padded to multiples of this many tokens if the caches can be trimmed.
    """

    def __init__(
        self,
        model: Any,
        sequences: list[SequenceState],
        caches: list[Any] | None,
        done: int,
        step: int = 1,
    ) -> None:
        self.sequences = sequences
        self.tokens = sequences[0].request.tokens
        self.done = done
        self.caches = make_prompt_cache(model) if caches is None else caches
        self._model = model
        self._step = step
        # Layers of the current chunk that are not computed.
        self._pending_layers: list[list[Any]] = []

    @property
    def left(self) -> int:
        """Tokens to process without the last one, whose pass gives the first logits."""
        return len(self.tokens) - 1 - self.done

    @property
    def plain(self) -> bool:
        """Whether the caches can be trimmed and merged with others."""
        return all(type(cache) is KVCache for cache in self.caches)

    @property
    def can_share_pass(self) -> bool:
        """Whether other prompts can be processed in the same pass."""
        return self.plain and not self._pending_layers

    @property
    def ready(self) -> bool:
        """Whether the prompt is completely processed."""
        return not (self.left or self._pending_layers)

    def advance(self, most: int, parts: int = 1) -> int:
        """Process a part of a chunk.

        mlx computes lazily, so a chunk can be computed some layers at a time: pauses for other
        streams are shorter and operations stay large. Building the graph of all layers takes
        Python some milliseconds, so it is a separate call.

        Args:
            most: the most tokens of a chunk.
            parts: number of calls per chunk, plus one, if there are as many layers.

        Returns:
            Number of tokens of a chunk that was started.
        """
        started = 0 if self._pending_layers else self._start_chunk(most, parts)
        if self._pending_layers and (parts == 1 or not started):
            # Only the caches: the logits of a prompt are not needed, so they are not computed.
            # The last chunk need not be awaited, because the first token depends on it.
            layers = self._pending_layers.pop(0)
            (mx.async_eval if self.ready else mx.eval)([cache.state for cache in layers])
        return started

    def settle(self) -> None:
        """Compute what was started to its end, so that the caches can be stored."""
        mx.async_eval([cache.state for layers in self._pending_layers for cache in layers])
        self._pending_layers = []

    def _start_chunk(self, most: int, parts: int) -> int:
        piece = self.tokens[self.done : self.done + min(most, self.left)]
        if piece:
            padding = -len(piece) % self._step if self.plain else 0
            self._model(mx.array([piece + [0] * padding], dtype=mx.uint32), cache=self.caches)
            for cache in self.caches if padding else ():
                cache.trim(padding)
            self.done += len(piece)
            layers_per_part = -(-len(self.caches) // parts)
            layers = range(0, len(self.caches), layers_per_part)
            self._pending_layers = [
                self.caches[first : first + layers_per_part] for first in layers
            ]
        return len(piece)

    def batched_caches(self) -> list[Any]:
        """Return the caches, batched for all choices."""
        if len(self.sequences) == 1:
            return self.caches
        return [cache.merge([cache] * len(self.sequences)) for cache in self.caches]


def batchable(caches: list[Any]) -> bool:
    """Whether sequences with such caches can decode in one batch."""
    return all(hasattr(cache, "merge") for cache in caches)


def finish(model: Any, prompts: Sequence[Prefill], step: int = 1) -> list[Any]:
    """Process the remaining tokens of several plain prompts in one pass.

    Args:
        model: mlx-lm's model.
        prompts: the prompts.
        step: the pass is padded to a multiple of this many tokens.

    Returns:
        Batched caches with one sequence per choice.
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
    choices = [number for number, prompt in enumerate(prompts) for _ in prompt.sequences]
    if len(choices) > len(prompts):
        for cache in caches:
            cache.filter(choices)
    for prompt in prompts:
        prompt.done = len(prompt.tokens) - 1
    return caches


def pick(prompts: list[Prefill], turn: int, most: int, step: int = 1) -> list[Prefill]:
    """Select the next prompts to process: a chunk of one, or the rest of several.

    Alternates between the prompt with the fewest tokens left, so that short ones do not wait for
    long ones, and the oldest, so that it does not starve. Others that can be finished in the same
    pass are added.

    Args:
        prompts: at least one, the oldest first.
        turn: number of the call.
        most: the most tokens of a pass, with padding.
        step: lengths are padded to a multiple of it. If that is above 1, more than four
            sequences are rounded to multiples of four.
    """
    by_length = sorted(prompts, key=lambda prompt: prompt.left)
    first = by_length[0] if turn % 2 else prompts[0]
    picked = [first]
    if first.can_share_pass and first.left <= most:
        for prompt in by_length:
            longest = max(prompt.left, first.left, *(other.left for other in picked))
            longest += -longest % step
            if (
                prompt is not first
                and prompt.can_share_pass
                and (len(picked) + 1) * longest <= most
            ):
                picked.append(prompt)
    return picked[: len(picked) // 4 * 4] if step > 1 and len(picked) > 4 else picked
