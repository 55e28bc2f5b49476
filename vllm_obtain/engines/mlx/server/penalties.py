"""Presence, frequency and repetition penalties of a batch; see `Sampling` for the rules."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from .request import Sampling


class Penalties:
    """Token counts per sequence; arguments as for `Sampler`."""

    def __init__(
        self,
        params: Sequence[Sampling],
        prompts: Sequence[list[int]],
        generated: Sequence[list[int]],
        pending: mx.array,
        fresh: Sequence[bool],
        vocabulary: int,
    ) -> None:
        # Sequences without penalties have neutral factors, so their counts do not matter.
        penalized = [param.penalises for param in params]
        self._counts = _count_tokens(generated, penalized, vocabulary)
        self._prompt = _count_tokens(prompts, penalized, vocabulary) > 0
        self._sequences = mx.arange(len(params))
        self._presence = mx.array([[param.presence_penalty] for param in params])
        self._frequency = mx.array([[param.frequency_penalty] for param in params])
        self._repetition = mx.array([[param.repetition_penalty] for param in params])
        # The last prompt token is counted with the prompt.
        self._add(pending, mx.array([0.0 if new else 1.0 for new in fresh]))

    def count(self, tokens: mx.array) -> None:
        """Count one more token per sequence."""
        self._add(tokens, mx.array(1.0))

    def _add(self, tokens: mx.array, amount: mx.array) -> None:
        self._counts = self._counts.at[self._sequences, tokens].add(amount)

    def apply(self, logits: mx.array) -> mx.array:
        """Apply the penalties to the logits."""
        occurred = self._counts > 0
        factor = mx.where(occurred | self._prompt, self._repetition, 1.0)
        logits = mx.where(logits > 0, logits / factor, logits * factor)
        return logits - occurred * self._presence - self._counts * self._frequency


def _count_tokens(
    token_lists: Sequence[list[int]], penalized: Sequence[bool], vocabulary: int
) -> mx.array:
    counts = []
    for tokens, is_penalized in zip(token_lists, penalized, strict=True):
        counter = mx.zeros(vocabulary)
        if is_penalized and tokens:
            counter = counter.at[mx.array(tokens)].add(1.0)
        counts.append(counter)
    return mx.stack(counts)
