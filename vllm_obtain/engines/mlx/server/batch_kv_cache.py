"""Adds sequences to padded, batched KV caches and removes them with few operations per layer.

The cost of a change is not the copied bytes but the number of kernel launches. mlx-lm's `extend`
pads and copies both sides and grows the result at the next token, and its `filter` waits for the
device in every layer. Here space for the next tokens is allocated on joining, and what is equal in
all layers is computed once. Other cache types use mlx-lm's methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

# Caches grow by this many tokens at a time, as in mlx-lm.
STEP = KVCache.step


def join(one: list[Any], two: list[Any], sequences: tuple[int, int]) -> list[Any]:
    """Combine the sequences of two sets of caches.

    Args:
        one: a plain or batched cache per layer; must not be used afterwards.
        two: the same.
        sequences: number of sequences of each.

    Returns:
        A batched cache per layer: the sequences of the first, then those of the second.
    """
    lengths = _length(one), _length(two)
    if not all(lengths):
        return _extended(_batched(one, sequences[0]), _batched(two, sequences[1]))
    longest = max(lengths)
    (padding, offset), (other_padding, other_offset) = (
        _padding_and_offset(caches[0], longest - length)
        for caches, length in ((one, lengths[0]), (two, lengths[1]))
    )
    padding = mx.concatenate([padding, other_padding])
    offset = mx.concatenate([offset, other_offset])
    capacity = (longest // STEP + 1) * STEP
    stacked = []
    for first, second in zip(one, two, strict=True):
        cache = BatchKVCache([])
        cache.keys = _stacked(first.keys, second.keys, lengths, capacity)
        cache.values = _stacked(first.values, second.values, lengths, capacity)
        cache.left_padding, cache.offset = _separate_handle(padding), _separate_handle(offset)
        cache._idx = longest
        stacked.append(cache)
    return stacked


def keep(caches: list[Any], sequences: Sequence[int]) -> None:
    """Remove all other sequences of batched caches in place, and padding that is no longer needed.

    Args:
        caches: a batched cache per layer.
        sequences: indices of the sequences to keep.
    """
    if not _length(caches):
        for cache in caches:
            cache.filter(list(sequences))
        return
    index = mx.array(list(sequences))
    padding, offset = caches[0].left_padding[index], caches[0].offset[index]
    unused = min(padding.tolist())
    if unused:
        padding = padding - unused
    for cache in caches:
        cache.keys = mx.take(cache.keys[..., unused:, :], index, axis=0)
        cache.values = mx.take(cache.values[..., unused:, :], index, axis=0)
        cache.left_padding, cache.offset = _separate_handle(padding), _separate_handle(offset)
        cache._idx -= unused


def _length(caches: list[Any]) -> int:
    """Return the number of tokens in all caches, 0 if they are not all plain or differ."""
    lengths = {_filled(cache) for cache in caches}
    return lengths.pop() if len(lengths) == 1 else 0


def _filled(cache: Any) -> int:
    if type(cache) is KVCache:
        return int(cache.offset)
    if type(cache) is BatchKVCache and cache._right_padding is None:
        return int(cache._idx)
    return 0


def _padding_and_offset(cache: Any, extra: int) -> tuple[mx.array, mx.array]:
    """Return the padding and offset of a cache's sequences after `extra` tokens of padding."""
    if type(cache) is KVCache:
        return mx.array([extra]), mx.array([cache.offset])
    return cache.left_padding + extra, cache.offset


def _stacked(one: mx.array, two: mx.array, lengths: tuple[int, int], capacity: int) -> mx.array:
    """Stack sequences, aligned at their last token, with free space after it."""
    sequences, heads, _, width = one.shape
    longest = max(lengths)
    stacked = mx.zeros((sequences + two.shape[0], heads, capacity, width), dtype=one.dtype)
    stacked[:sequences, :, longest - lengths[0] : longest] = one[..., : lengths[0], :]
    stacked[sequences:, :, longest - lengths[1] : longest] = two[..., : lengths[1], :]
    return stacked


def _separate_handle(shared: mx.array) -> mx.array:
    """Return a separate handle for a layer: mlx-lm changes such arrays in place."""
    return mx.reshape(shared, shared.shape)


def _extended(one: list[Any], two: list[Any]) -> list[Any]:
    for first, second in zip(one, two, strict=True):
        first.extend(second)
    return one


def _batched(caches: list[Any], sequences: int) -> list[Any]:
    return caches if sequences > 1 else [cache.merge([cache]) for cache in caches]
