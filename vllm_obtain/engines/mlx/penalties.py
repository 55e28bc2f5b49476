"""Presence, frequency and repetition penalties over a batch; what counts: see `Sampling`."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from .request import Sampling


class Penalties:
    """How often each token was there, per row; arguments as those of `Sampler`."""

    def __init__(
        self,
        rules: Sequence[Sampling],
        prompts: Sequence[list[int]],
        generated: Sequence[list[int]],
        pending: mx.array,
        fresh: Sequence[bool],
        vocabulary: int,
    ) -> None:
        # Rows that ask for nothing have neutral factors: their counts need not be right.
        asking = [rule.penalises for rule in rules]
        self._counts = _counted(generated, asking, vocabulary)
        self._prompt = _counted(prompts, asking, vocabulary) > 0
        self._rows = mx.arange(len(rules))
        self._presence = mx.array([[rule.presence_penalty] for rule in rules])
        self._frequency = mx.array([[rule.frequency_penalty] for rule in rules])
        self._repetition = mx.array([[rule.repetition_penalty] for rule in rules])
        # The end of a prompt is counted with the prompt.
        self._add(pending, mx.array([0.0 if new else 1.0 for new in fresh]))

    def note(self, tokens: mx.array) -> None:
        """Count one more token per row."""
        self._add(tokens, mx.array(1.0))

    def _add(self, tokens: mx.array, often: mx.array) -> None:
        self._counts = self._counts.at[self._rows, tokens].add(often)

    def apply(self, logits: mx.array) -> mx.array:
        """Lower the logits of what was there."""
        here = self._counts > 0
        factor = mx.where(here | self._prompt, self._repetition, 1.0)
        logits = mx.where(logits > 0, logits / factor, logits * factor)
        return logits - here * self._presence - self._counts * self._frequency


def _counted(rows: Sequence[list[int]], asking: Sequence[bool], vocabulary: int) -> mx.array:
    counts = []
    for tokens, asks in zip(rows, asking, strict=True):
        row = mx.zeros(vocabulary)
        if asks and tokens:
            row = row.at[mx.array(tokens)].add(1.0)
        counts.append(row)
    return mx.stack(counts)
