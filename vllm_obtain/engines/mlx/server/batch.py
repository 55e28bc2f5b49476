"""Sequences that decode together: one forward pass generates a token for each of them.

mlx-lm's caches are used, but not its BatchGenerator. That copies all prompts whenever one is done,
samples one sequence at a time if parameters differ, sets the wired limit, and is 2.4 times slower
than mlx-lm's single-stream path for one sequence. Here a single sequence keeps the plain cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from . import batch_kv_cache
from .guided_decoding import allowed_tokens
from .logprobs import TokenLogprobs, select_logprobs
from .sampler import Sampler
from .sequence import SequenceState


class Batch:
    """A batch of sequences whose caches hold their prompts except the last token.

    Sampled tokens are read one step late, so the device computes while Python works. Fresh
    sequences have sampled no token yet: their input is the last prompt token.

    Args:
        model: mlx-lm's model.
        sequences: the sequences.
        caches: one per layer; batched caches if there are several sequences.
    """

    def __init__(self, model: Any, sequences: Sequence[SequenceState], caches: list[Any]) -> None:
        self.sequences = list(sequences)
        self.caches = caches
        self._model = model
        self._sampler: Sampler | None = None
        self._fresh = [True] * len(sequences)
        self._pending = mx.array(
            [sequence.request.tokens[-1] for sequence in sequences], dtype=mx.uint32
        )
        self._logprobs: list[TokenLogprobs] = [None] * len(sequences)

    def __len__(self) -> int:
        return len(self.sequences)

    def step(self) -> list[tuple[SequenceState, int, TokenLogprobs]]:
        """Start computing the next token of each sequence.

        Returns:
            The sequences that are not fresh, each with the token of the previous step.
        """
        inputs, logprobs, fresh = self._pending, self._logprobs, self._fresh
        self._advance(inputs)
        self._fresh = [False] * len(self.sequences)
        pairs = zip(self.sequences, inputs.tolist(), logprobs, fresh, strict=True)
        return [(sequence, token, entry) for sequence, token, entry, new in pairs if not new]

    def join(self, other: Batch) -> None:
        """Add the sequences of another batch, which must not be used afterwards."""
        self.caches = batch_kv_cache.join(self.caches, other.caches, (len(self), len(other)))
        self.sequences += other.sequences
        self._fresh += other._fresh
        self._pending = mx.concatenate([self._pending, other._pending])
        self._logprobs += other._logprobs
        self._sampler = None

    def keep(self, sequences: Sequence[SequenceState]) -> None:
        """Remove all other sequences; at least one must remain."""
        left = [index for index, sequence in enumerate(self.sequences) if sequence in sequences]
        if len(left) == len(self.sequences):
            return
        if len(left) == 1:
            self.caches = self.cache_of(self.sequences[left[0]])
        else:
            batch_kv_cache.keep(self.caches, left)
        self.sequences = [self.sequences[index] for index in left]
        self._fresh = [self._fresh[index] for index in left]
        self._pending = self._pending[mx.array(left)]
        self._logprobs = [self._logprobs[index] for index in left]
        self._sampler = None

    def extract(self, sequence: SequenceState) -> Batch:
        """Create a batch of one sequence of this batch, which still contains it."""
        index = self.sequences.index(sequence)
        single = Batch(self._model, [sequence], self.cache_of(sequence))
        single._pending = self._pending[index : index + 1]
        single._logprobs, single._fresh = [self._logprobs[index]], [self._fresh[index]]
        return single

    def cache_of(self, sequence: SequenceState) -> list[Any]:
        """Copy one sequence's cache out of the batch; the cache of a single sequence is not copied.

        It holds `tokens_of` the sequence if all sampled tokens were read.
        """
        if len(self) == 1:
            return self.caches
        index = self.sequences.index(sequence)
        caches = [cache.extract(index) for cache in self.caches]
        # A lazy copy would keep the caches of the whole batch alive.
        mx.async_eval([cache.state for cache in caches])
        return caches

    def tokens_of(self, sequence: SequenceState) -> list[int]:
        """Return the tokens that a sequence's cache holds."""
        is_fresh = self._fresh[self.sequences.index(sequence)]
        return sequence.tokens[:-1] if is_fresh else sequence.tokens

    def _advance(self, inputs: mx.array) -> None:
        logits = self._model(inputs[:, None], cache=self.caches)[:, -1, :].astype(mx.float32)
        if any(sequence.matcher is not None for sequence in self.sequences):
            allowed = self._constrain(logits, inputs)
        else:
            allowed = None
        if self._sampler is None:
            self._sampler = self._new_sampler(inputs, logits.shape[-1])
        sampled = self._sampler.sample(
            logits, [sequence.sampled_count for sequence in self.sequences], allowed
        )
        for sequence in self.sequences:
            sequence.sampled_count += 1
        self._logprobs = select_logprobs(
            logits, sampled, [sequence.request.logprobs for sequence in self.sequences]
        )
        self._pending = sampled
        mx.async_eval(sampled, self._logprobs)

    def _constrain(self, logits: mx.array, inputs: mx.array) -> mx.array:
        """Compute the allowed tokens while the device computes the logits."""
        mx.async_eval(logits)
        for sequence, token, new in zip(self.sequences, inputs.tolist(), self._fresh, strict=True):
            if sequence.matcher is not None and not new:
                sequence.matcher.consume(token)
        return allowed_tokens([sequence.matcher for sequence in self.sequences], logits.shape[-1])

    def _new_sampler(self, inputs: mx.array, vocabulary: int) -> Sampler:
        """Create a sampler that knows all tokens except those that `_advance` will sample."""
        return Sampler(
            [sequence.sampling for sequence in self.sequences],
            [sequence.request.tokens for sequence in self.sequences],
            [sequence.generated for sequence in self.sequences],
            inputs,
            self._fresh,
            vocabulary,
        )
