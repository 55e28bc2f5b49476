"""Rows that join rectangles of caches and leave them keep what they hold, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

mx = pytest.importorskip("mlx.core")
caches = pytest.importorskip("mlx_lm.models.cache")
rectangle = pytest.importorskip("vllm_obtain.engines.mlx.rectangle")

LAYERS, HEADS, WIDTH = 3, 2, 4


def row(length: int, seed: int, kind: Callable[[], Any] | None = None) -> list[Any]:
    """Make a row's caches, each layer with numbers of its own."""
    made = []
    for layer in range(LAYERS):
        cache = kind() if kind else caches.KVCache()
        keys = mx.random.normal((1, HEADS, length, WIDTH), key=mx.random.key(100 * seed + layer))
        cache.update_and_fetch(keys, -keys)
        made.append(cache)
    return made


def held(layers: list[Any], place: int) -> list[Any]:
    """Read a row's numbers out of a rectangle, or out of a cache of its own."""
    found = []
    for cache in layers:
        own = cache if isinstance(cache, caches.KVCache) else cache.extract(place)
        keys, values = own.keys_and_values()
        assert (keys == -values).all()
        found.append(keys.tolist())
    return found


def test_rows_of_all_lengths_join_and_leave() -> None:
    lengths = [5, 300, 256, 17, 511]
    alone = [row(length, seed) for seed, length in enumerate(lengths)]
    wanted = [held(one, 0) for one in alone]
    together = alone[0]
    for count, one in enumerate(alone[1:], 1):
        together = rectangle.join(together, one, (count, 1))
    assert [held(together, place) for place in range(5)] == wanted

    rectangle.keep(together, [0, 2, 3])
    assert [held(together, place) for place in range(3)] == [wanted[n] for n in (0, 2, 3)]
    assert {cache._idx for cache in together} == {256}, "padding that nobody needs is dropped"

    other = rectangle.join(row(40, 8), row(600, 9), (1, 1))
    kept = [held(other, place) for place in range(2)]
    both = rectangle.join(together, other, (3, 2))
    assert [held(both, place) for place in range(5)] == [wanted[n] for n in (0, 2, 3)] + kept


@pytest.mark.parametrize("lengths", [(5, 300), (255, 256), (256, 1), (511, 512)])
def test_the_next_token_finds_room_in_every_layer(lengths: tuple[int, int]) -> None:
    joined = rectangle.join(row(lengths[0], 1), row(lengths[1], 2), (1, 1))
    shapes = [cache.keys.shape for cache in joined]
    token = mx.ones((2, HEADS, 1, WIDTH))
    for cache in joined:
        keys, _ = cache.update_and_fetch(token, token)
        assert keys.shape[2] == max(lengths) + 1
        assert cache.offset.tolist() == [length + 1 for length in lengths]
        assert cache.left_padding.tolist() == [max(lengths) - length for length in lengths]
    assert [cache.keys.shape for cache in joined] == shapes


def test_layers_do_not_share_what_mlx_lm_changes_in_place() -> None:
    joined = rectangle.join(row(3, 1), row(9, 2), (1, 1))
    rectangle.keep(joined, [1, 0])
    joined[0].left_padding += 1
    joined[0].offset -= 1
    assert [cache.left_padding.tolist() for cache in joined] == [[1, 7], [0, 6], [0, 6]]
    assert [cache.offset.tolist() for cache in joined] == [[8, 2], [9, 3], [9, 3]]


def test_caches_of_other_kinds_go_mlx_lms_way() -> None:
    def window() -> Any:
        return caches.RotatingKVCache(max_size=64)

    joined = rectangle.join(row(5, 1, window), row(40, 2, window), (1, 1))
    assert {type(cache) for cache in joined} == {caches.BatchRotatingKVCache}
    rectangle.keep(joined, [1])
    keys = [cache.extract(0).keys[..., :40, :].tolist() for cache in joined]
    assert keys == [cache.keys[..., :40, :].tolist() for cache in row(40, 2, window)]


def test_a_row_without_tokens_joins_too() -> None:
    empty = [caches.KVCache() for _ in range(LAYERS)]
    joined = rectangle.join(row(6, 1), empty, (1, 1))
    assert held(joined, 0) == held(row(6, 1), 0)
    assert [cache.offset.tolist() for cache in joined] == [[6, 0]] * LAYERS
