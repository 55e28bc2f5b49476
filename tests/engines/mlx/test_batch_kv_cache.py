"""Sequences keep their cache content when they join and leave a batch, for every cache type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

mx: Any
caches: Any
kv_cache: Any

LAYERS, HEADS, WIDTH = 3, 2, 4


@pytest.fixture(scope="module", autouse=True)
def _mlx() -> None:
    """Import what is tested; it takes a second, in each worker that collects the tests."""
    global mx, caches, kv_cache
    mx = pytest.importorskip("mlx.core")
    caches = pytest.importorskip("mlx_lm.models.cache")
    kv_cache = pytest.importorskip("vllm_obtain.engines.mlx.server.batch_kv_cache")


def sequence_caches(length: int, seed: int, kind: Callable[[], Any] | None = None) -> list[Any]:
    """Create the caches of a sequence, with different values in each layer."""
    layers = []
    for layer in range(LAYERS):
        cache = kind() if kind else caches.KVCache()
        keys = mx.random.normal((1, HEADS, length, WIDTH), key=mx.random.key(100 * seed + layer))
        cache.update_and_fetch(keys, -keys)
        layers.append(cache)
    return layers


def values_of(layers: list[Any], index: int) -> list[Any]:
    """Read the values of a sequence from a batched or a plain cache."""
    results = []
    for cache in layers:
        own = cache if isinstance(cache, caches.KVCache) else cache.extract(index)
        keys, values = own.keys_and_values()
        assert (keys == -values).all()
        results.append(keys.tolist())
    return results


def test_sequences_of_all_lengths_join_and_leave() -> None:
    lengths = [5, 300, 256, 17, 511]
    single = [sequence_caches(length, seed) for seed, length in enumerate(lengths)]
    expected = [values_of(layers, 0) for layers in single]
    batched = single[0]
    for count, one in enumerate(single[1:], 1):
        batched = kv_cache.join(batched, one, (count, 1))
    assert [values_of(batched, index) for index in range(5)] == expected

    kv_cache.keep(batched, [0, 2, 3])
    assert [values_of(batched, index) for index in range(3)] == [expected[n] for n in (0, 2, 3)]
    assert {cache._idx for cache in batched} == {256}, "padding that nobody needs is dropped"

    other = kv_cache.join(sequence_caches(40, 8), sequence_caches(600, 9), (1, 1))
    kept = [values_of(other, index) for index in range(2)]
    both = kv_cache.join(batched, other, (3, 2))
    assert [values_of(both, index) for index in range(5)] == [expected[n] for n in (0, 2, 3)] + kept


@pytest.mark.parametrize("lengths", [(5, 300), (255, 256), (256, 1), (511, 512)])
def test_every_layer_has_capacity_for_the_next_token(lengths: tuple[int, int]) -> None:
    joined = kv_cache.join(sequence_caches(lengths[0], 1), sequence_caches(lengths[1], 2), (1, 1))
    shapes = [cache.keys.shape for cache in joined]
    token = mx.ones((2, HEADS, 1, WIDTH))
    for cache in joined:
        keys, _ = cache.update_and_fetch(token, token)
        assert keys.shape[2] == max(lengths) + 1
        assert cache.offset.tolist() == [length + 1 for length in lengths]
        assert cache.left_padding.tolist() == [max(lengths) - length for length in lengths]
    assert [cache.keys.shape for cache in joined] == shapes


def test_layers_do_not_share_arrays_that_mlx_lm_changes_in_place() -> None:
    joined = kv_cache.join(sequence_caches(3, 1), sequence_caches(9, 2), (1, 1))
    kv_cache.keep(joined, [1, 0])
    joined[0].left_padding += 1
    joined[0].offset -= 1
    assert [cache.left_padding.tolist() for cache in joined] == [[1, 7], [0, 6], [0, 6]]
    assert [cache.offset.tolist() for cache in joined] == [[8, 2], [9, 3], [9, 3]]


def test_other_cache_types_use_the_methods_of_mlx_lm() -> None:
    def window() -> Any:
        return caches.RotatingKVCache(max_size=64)

    joined = kv_cache.join(sequence_caches(5, 1, window), sequence_caches(40, 2, window), (1, 1))
    assert {type(cache) for cache in joined} == {caches.BatchRotatingKVCache}
    kv_cache.keep(joined, [1])
    keys = [cache.extract(0).keys[..., :40, :].tolist() for cache in joined]
    assert keys == [cache.keys[..., :40, :].tolist() for cache in sequence_caches(40, 2, window)]


def test_a_sequence_without_tokens_can_join() -> None:
    empty = [caches.KVCache() for _ in range(LAYERS)]
    joined = kv_cache.join(sequence_caches(6, 1), empty, (1, 1))
    assert values_of(joined, 0) == values_of(sequence_caches(6, 1), 0)
    assert [cache.offset.tolist() for cache in joined] == [[6, 0]] * LAYERS
