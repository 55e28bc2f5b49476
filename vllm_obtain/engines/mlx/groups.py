"""All rows that decode, in batches: one for each length class, and those that must be alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from .batch import Batch
from .memory import Memory
from .prefill import batchable
from .row import Row


class Groups:
    """By length class; rows that cannot be batched are alone, under numbers below zero.

    Args:
        memory: knows the classes.
    """

    def __init__(self, memory: Memory) -> None:
        self._class = memory.length_class
        self._batches: dict[int, Batch] = {}
        self._alone = itertools.count(1)

    def __len__(self) -> int:
        """How many rows there are; also for other threads to ask."""
        return sum(map(len, list(self._batches.values())))

    def __iter__(self) -> Iterator[Batch]:
        return iter(list(self._batches.values()))

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [row for batch in self._batches.values() for row in batch.rows]

    def place(self, batch: Batch) -> None:
        """Put a batch where others of its length are, apart if its rows differ in that."""
        if len({self._class(row.horizon) for row in batch.rows}) > 1:
            for row in batch.rows:
                self.place(batch.part(row))
            return
        can_join = len(batch) > 1 or batchable(batch.caches)
        key = self._class(batch.rows[0].horizon) if can_join else -next(self._alone)
        if (others := self._batches.get(key)) is None:
            self._batches[key] = batch
        else:
            others.join(batch)

    def regroup(self) -> None:
        """Move rows that have outgrown their length class."""
        for key, batch in list(self._batches.items()):
            grown = [row for row in batch.rows if 0 <= key < self._class(row.horizon)]
            if not grown:
                continue
            parts = [batch.part(row) for row in grown]
            self._drop(key, grown)
            for part in parts:
                self.place(part)

    def remove(self, rows: list[Row], last_look: Callable[[Batch, Row], None]) -> None:
        """Forget rows.

        Args:
            rows: that are done with.
            last_look: called for each of them, with the batch that still holds it.
        """
        for key, batch in list(self._batches.items()):
            gone = [row for row in batch.rows if row in rows]
            for row in gone:
                last_look(batch, row)
            if gone:
                self._drop(key, gone)

    def _drop(self, key: int, gone: list[Row]) -> None:
        batch = self._batches[key]
        left = [row for row in batch.rows if row not in gone]
        if left:
            batch.keep(left)
        else:
            del self._batches[key]
