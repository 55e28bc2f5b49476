"""Rows that join a rectangle of caches, and rows that leave it, in few operations a layer.

What a join or a leave costs those that stay is not the bytes but how often the device is told
something: mlx-lm's `extend` pads and copies both sides, and the first token after it has to grow
the result; its `filter` waits for the device in every layer. Here room for the next tokens comes
with the join, and what is the same in all layers is worked out once. Caches of other kinds than
the plain ones go mlx-lm's way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

# Room is made for so many tokens at a time, as mlx-lm does.
STEP = KVCache.step


def join(one: list[Any], two: list[Any], rows: tuple[int, int]) -> list[Any]:
    """Put the rows of two sets of caches into one rectangle.

    Args:
        one: a cache per layer, of a row or of a rectangle of them; of no use afterwards.
        two: the like.
        rows: how many rows each has.

    Returns:
        A rectangle per layer: the rows of the first, then those of the second.
    """
    lengths = _length(one), _length(two)
    if not all(lengths):
        return _extended(_rectangles(one, rows[0]), _rectangles(two, rows[1]))
    longest = max(lengths)
    (padding, offset), (more_padding, more_offset) = (
        _places(caches[0], longest - length)
        for caches, length in ((one, lengths[0]), (two, lengths[1]))
    )
    padding = mx.concatenate([padding, more_padding])
    offset = mx.concatenate([offset, more_offset])
    room = (longest // STEP + 1) * STEP
    made = []
    for first, second in zip(one, two, strict=True):
        cache = BatchKVCache([])
        cache.keys = _stacked(first.keys, second.keys, lengths, room)
        cache.values = _stacked(first.values, second.values, lengths, room)
        cache.left_padding, cache.offset, cache._idx = _own(padding), _own(offset), longest
        made.append(cache)
    return made


def keep(caches: list[Any], rows: Sequence[int]) -> None:
    """Drop all other rows of a rectangle, in place, and the padding that nobody needs any more.

    Args:
        caches: a rectangle per layer.
        rows: which rows stay, by their places.
    """
    if not _length(caches):
        for cache in caches:
            cache.filter(list(rows))
        return
    index = mx.array(list(rows))
    padding, offset = caches[0].left_padding[index], caches[0].offset[index]
    spare = min(padding.tolist())
    if spare:
        padding = padding - spare
    for cache in caches:
        cache.keys = mx.take(cache.keys[..., spare:, :], index, axis=0)
        cache.values = mx.take(cache.values[..., spare:, :], index, axis=0)
        cache.left_padding, cache.offset = _own(padding), _own(offset)
        cache._idx -= spare


def _length(caches: list[Any]) -> int:
    """Tell how many tokens are in all the caches alike, 0 if they are not all plain."""
    lengths = {_filled(cache) for cache in caches}
    return lengths.pop() if len(lengths) == 1 else 0


def _filled(cache: Any) -> int:
    if type(cache) is KVCache:
        return int(cache.offset)
    if type(cache) is BatchKVCache and cache._right_padding is None:
        return int(cache._idx)
    return 0


def _places(cache: Any, more: int) -> tuple[mx.array, mx.array]:
    """Tell the paddings and the offsets of a cache's rows, padded by so many tokens more."""
    if type(cache) is KVCache:
        return mx.array([more]), mx.array([cache.offset])
    return cache.left_padding + more, cache.offset


def _stacked(one: mx.array, two: mx.array, lengths: tuple[int, int], room: int) -> mx.array:
    """Put rows above each other, their last tokens in one column, with room behind it."""
    rows, heads, _, width = one.shape
    longest = max(lengths)
    made = mx.zeros((rows + two.shape[0], heads, room, width), dtype=one.dtype)
    made[:rows, :, longest - lengths[0] : longest] = one[..., : lengths[0], :]
    made[rows:, :, longest - lengths[1] : longest] = two[..., : lengths[1], :]
    return made


def _own(shared: mx.array) -> mx.array:
    """Give a layer a handle of its own: mlx-lm changes such arrays in place."""
    return mx.reshape(shared, shared.shape)


def _extended(one: list[Any], two: list[Any]) -> list[Any]:
    for first, second in zip(one, two, strict=True):
        first.extend(second)
    return one


def _rectangles(caches: list[Any], rows: int) -> list[Any]:
    return caches if rows > 1 else [cache.merge([cache]) for cache in caches]
