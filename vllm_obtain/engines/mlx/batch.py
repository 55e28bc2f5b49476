"""Rows that decode together: one pass of the model gives each of them a token.

mlx-lm's BatchGenerator is not used, its caches are: it copies all prompts whenever one of them
is done, draws row by row as soon as rows differ, sets the wired limit, and is 2.4 times slower
than its own single-stream path when there is one row. Here one row keeps the plain cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from .logprobs import Told, look
from .row import Row
from .sampling import Sampler


class Batch:
    """Starts with one row, whose prompt is in its cache but for the last token.

    The drawn tokens are read one step late: the device computes while Python works.

    Args:
        model: mlx-lm's model.
        row: the row.
        caches: one per layer.
    """

    def __init__(self, model: Any, row: Row, caches: list[Any]) -> None:
        self.rows = [row]
        self.caches = caches
        self._model = model
        self._vocabulary = 0
        self._sampler: Sampler | None = None
        self._pending: mx.array | None = None
        self._told: list[Told] = []
        self._advance(mx.array([row.request.tokens[-1]], dtype=mx.uint32))

    def __len__(self) -> int:
        return len(self.rows)

    def step(self) -> list[tuple[Row, int, Told]]:
        """Start computing the next token of each row.

        Returns:
            Each row with the token that was computed before.
        """
        pending, told = self._pending, self._told
        assert pending is not None  # noqa: S101 - there is one after __init__
        self._advance(pending)
        return list(zip(self.rows, pending.tolist(), told, strict=True))

    def join(self, other: Batch) -> None:
        """Take the rows of another batch in, which is of no use afterwards."""
        if len(self) == len(other) == 1:
            pairs = zip(self.caches, other.caches, strict=True)
            self.caches = [one.merge([one, two]) for one, two in pairs]
        else:
            mine, others = self._rectangles(), other._rectangles()
            for one, two in zip(mine, others, strict=True):
                one.extend(two)
            self.caches = mine
        self.rows += other.rows
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
            for cache in self.caches:
                cache.filter(left)
        self.rows = [self.rows[index] for index in left]
        assert self._pending is not None  # noqa: S101 - there is one after __init__
        self._pending = self._pending[mx.array(left)]
        self._told = [self._told[index] for index in left]
        self._sampler = None

    def part(self, row: Row) -> Batch:
        """Make a batch of one row of this one, which still holds it."""
        index = self.rows.index(row)
        single = Batch.__new__(Batch)
        single.__dict__.update(self.__dict__)
        single.rows, single.caches = [row], self.cache_of(row)
        single._pending = None if self._pending is None else self._pending[index : index + 1]
        single._told, single._sampler = [self._told[index]], None
        return single

    def cache_of(self, row: Row) -> list[Any]:
        """Copy one row's cache out of the rectangle; a single row's is given away as it is.

        It holds all of `row.tokens`, if all that was drawn was read.
        """
        if len(self) == 1:
            return self.caches
        index = self.rows.index(row)
        own = [cache.extract(index) for cache in self.caches]
        # Uncomputed, a copy would keep the whole rectangle alive.
        mx.async_eval([cache.state for cache in own])
        return own

    def _rectangles(self) -> list[Any]:
        if len(self) > 1:
            return self.caches
        return [cache.merge([cache]) for cache in self.caches]

    def _advance(self, tokens: mx.array) -> None:
        logits = self._model(tokens[:, None], cache=self.caches)[:, -1, :].astype(mx.float32)
        if self._sampler is None:
            self._sampler = self._new_sampler(tokens, logits.shape[-1])
        drawn = self._sampler.draw(logits, [row.drawn for row in self.rows])
        for row in self.rows:
            row.drawn += 1
        self._told = look(logits, drawn, [row.request.logprobs for row in self.rows])
        self._pending = drawn
        mx.async_eval(drawn, self._told)

    def _new_sampler(self, fed: mx.array, vocabulary: int) -> Sampler:
        """Make a sampler that knows of all tokens but those that `_advance` is about to draw."""
        return Sampler(
            [row.request.sampling for row in self.rows],
            [row.request.tokens for row in self.rows],
            [row.generated for row in self.rows],
            # A row whose first token is being drawn is fed the end of its prompt.
            None if self._pending is None else fed,
            vocabulary,
        )
