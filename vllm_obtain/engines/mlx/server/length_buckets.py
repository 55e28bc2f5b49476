"""All decoding sequences: one batch per length class, and sequences that cannot be batched."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from .batch import Batch
from .memory_budget import MemoryBudget
from .prefill import batchable
from .sequence import SequenceState


class LengthBuckets:
    """Batches by length class. Sequences that cannot be batched have negative keys.

    Args:
        memory: defines the length classes.
    """

    def __init__(self, memory: MemoryBudget) -> None:
        self._class = memory.length_class
        self._batches: dict[int, Batch] = {}
        self._unbatched = itertools.count(1)

    def __len__(self) -> int:
        """Return the number of sequences; callable from any thread."""
        return sum(map(len, list(self._batches.values())))

    def __iter__(self) -> Iterator[Batch]:
        return iter(list(self._batches.values()))

    @property
    def sequences(self) -> list[SequenceState]:
        """All sequences."""
        return [sequence for batch in self._batches.values() for sequence in batch.sequences]

    def add(self, batch: Batch) -> None:
        """Add a batch to the one of its length class; split it if its sequences differ in that."""
        if len({self._class(sequence.horizon) for sequence in batch.sequences}) > 1:
            for sequence in batch.sequences:
                self.add(batch.extract(sequence))
            return
        can_join = len(batch) > 1 or batchable(batch.caches)
        key = self._class(batch.sequences[0].horizon) if can_join else -next(self._unbatched)
        if (others := self._batches.get(key)) is None:
            self._batches[key] = batch
        else:
            others.join(batch)

    def regroup(self) -> None:
        """Move sequences that have outgrown their length class."""
        for key, batch in list(self._batches.items()):
            grown = [
                sequence for sequence in batch.sequences if 0 <= key < self._class(sequence.horizon)
            ]
            if not grown:
                continue
            extracted = [batch.extract(sequence) for sequence in grown]
            self._drop(key, grown)
            for single in extracted:
                self.add(single)

    def remove(
        self, sequences: list[SequenceState], before_removal: Callable[[Batch, SequenceState], None]
    ) -> None:
        """Remove sequences.

        Args:
            sequences: the finished sequences.
            before_removal: called for each of them before removal, with its batch.
        """
        for key, batch in list(self._batches.items()):
            removed = [sequence for sequence in batch.sequences if sequence in sequences]
            for sequence in removed:
                before_removal(batch, sequence)
            if removed:
                self._drop(key, removed)

    def _drop(self, key: int, removed: list[SequenceState]) -> None:
        batch = self._batches[key]
        remaining = [sequence for sequence in batch.sequences if sequence not in removed]
        if remaining:
            batch.keep(remaining)
        else:
            del self._batches[key]
