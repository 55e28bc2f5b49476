"""Rows that decode together: one pass of the model gives each of them a token.

mlx-lm's BatchGenerator is not used, its caches are: it copies all prompts whenever one of them
is done, draws row by row as soon as rows differ, sets the wired limit, and is 2.4 times slower
than its own single-stream path when there is one row. Here one row keeps the plain cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from . import rectangle
from .grammar import forbid
from .logprobs import Told, look
from .row import Row
from .sampling import Sampler


class Batch:
    """Starts with rows whose prompts are in the caches but for their last tokens.

    The drawn tokens are read one step late: the device computes while Python works. Fresh rows
    have drawn none: what is fed for them is the end of their prompt, in the pass that serves all
    the others too.

    Args:
        model: mlx-lm's model.
        rows: the rows.
        caches: one per layer; a rectangle if there are several rows.
    """

    def __init__(self, model: Any, rows: Sequence[Row], caches: list[Any]) -> None:
        self.rows = list(rows)
        self.caches = caches
        self._model = model
        self._sampler: Sampler | None = None
        self._fresh = [True] * len(rows)
        self._pending = mx.array([row.request.tokens[-1] for row in rows], dtype=mx.uint32)
        self._told: list[Told] = [None] * len(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def step(self) -> list[tuple[Row, int, Told]]:
        """Start computing the next token of each row.

        Returns:
            The rows that are not fresh, each with the token that was computed before.
        """
        fed, told, fresh = self._pending, self._told, self._fresh
        self._advance(fed)
        self._fresh = [False] * len(self.rows)
        pairs = zip(self.rows, fed.tolist(), told, fresh, strict=True)
        return [(row, token, noted) for row, token, noted, new in pairs if not new]

    def join(self, other: Batch) -> None:
        """Take the rows of another batch in, which is of no use afterwards."""
        self.caches = rectangle.join(self.caches, other.caches, (len(self), len(other)))
        self.rows += other.rows
        self._fresh += other._fresh
        self._pending = mx.concatenate([self._pending, other._pending])
        self._told += other._told
        self._sampler = None

    def keep(self, rows: Sequence[Row]) -> None:
        """Drop all other rows; at least one must be left."""
        left = [index for index, row in enumerate(self.rows) if row in rows]
        if len(left) == len(self.rows):
            return
        if len(left) == 1:
            self.caches = self.cache_of(self.rows[left[0]])
        else:
            rectangle.keep(self.caches, left)
        self.rows = [self.rows[index] for index in left]
        self._fresh = [self._fresh[index] for index in left]
        self._pending = self._pending[mx.array(left)]
        self._told = [self._told[index] for index in left]
        self._sampler = None

    def part(self, row: Row) -> Batch:
        """Make a batch of one row of this one, which still holds it."""
        index = self.rows.index(row)
        single = Batch(self._model, [row], self.cache_of(row))
        single._pending = self._pending[index : index + 1]
        single._told, single._fresh = [self._told[index]], [self._fresh[index]]
        return single

    def cache_of(self, row: Row) -> list[Any]:
        """Copy one row's cache out of the rectangle; a single row's is given away as it is.

        It holds `tokens_of` the row, if all that was drawn was read.
        """
        if len(self) == 1:
            return self.caches
        index = self.rows.index(row)
        own = [cache.extract(index) for cache in self.caches]
        # Uncomputed, a copy would keep the whole rectangle alive.
        mx.async_eval([cache.state for cache in own])
        return own

    def tokens_of(self, row: Row) -> list[int]:
        """List the tokens that a row's cache holds."""
        return row.tokens[:-1] if self._fresh[self.rows.index(row)] else row.tokens

    def _advance(self, fed: mx.array) -> None:
        logits = self._model(fed[:, None], cache=self.caches)[:, -1, :].astype(mx.float32)
        if any(row.matcher is not None for row in self.rows):
            allowed = self._constrain(logits, fed)
        else:
            allowed = None
        if self._sampler is None:
            self._sampler = self._new_sampler(fed, logits.shape[-1])
        drawn = self._sampler.draw(logits, [row.drawn for row in self.rows], allowed)
        for row in self.rows:
            row.drawn += 1
        self._told = look(logits, drawn, [row.request.logprobs for row in self.rows])
        self._pending = drawn
        mx.async_eval(drawn, self._told)

    def _constrain(self, logits: mx.array, fed: mx.array) -> mx.array:
        """Work out what grammars allow; the device computes the logits meanwhile."""
        mx.async_eval(logits)
        for row, token, new in zip(self.rows, fed.tolist(), self._fresh, strict=True):
            if row.matcher is not None and not new:
                row.matcher.take(token)
        return forbid([row.matcher for row in self.rows], logits.shape[-1])

    def _new_sampler(self, fed: mx.array, vocabulary: int) -> Sampler:
        """Make a sampler that knows of all tokens but those that `_advance` is about to draw."""
        return Sampler(
            [row.sampling for row in self.rows],
            [row.request.tokens for row in self.rows],
            [row.generated for row in self.rows],
            fed,
            self._fresh,
            vocabulary,
        )
