"""The prefix cache: KV caches of past requests for prompts with the same prefix.

mlx-lm's LRUPromptCache walks a tree of dicts token by token and copies the path at every step if a
stored prompt is longer than the requested one. That takes seconds for long prompts, on the
generation thread. With few entries, comparing bytes is enough.
"""

from __future__ import annotations

import copy
from array import array
from collections import OrderedDict
from typing import Any

from mlx_lm.models.cache import KVCache

# Shorter common prefixes are not worth a copy.
SHORTEST = 16


class PrefixCache:
    """An LRU cache limited in bytes.

    Args:
        max_bytes: limit of all entries.
        step: prefixes are cut to multiples of this many tokens if they can be cut.
    """

    def __init__(self, max_bytes: int, step: int = 1) -> None:
        self.max_bytes = max_bytes
        self._step = step
        self.bytes = 0
        self.queries = 0
        self.hits = 0
        self._entries: OrderedDict[tuple[str, bytes], tuple[list[Any], int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, tokens: list[int], salt: str = "") -> tuple[list[Any] | None, int]:
        """Find the longest prefix that was processed before.

        Args:
            tokens: a prompt.
            salt: only entries with the same salt are used.

        Returns:
            Copies of the caches, and the number of tokens they hold: always at least one less
            than `tokens`, because the last token has to go through the model for its logits.
        """
        self.queries += 1
        wanted = _key(tokens)
        best, shared = b"", 0
        for (owner, key), (caches, _) in self._entries.items():
            if owner != salt:
                continue
            common = min(_common(key, wanted), len(tokens) - 1)
            whole = common == len(key) // 4
            if can_be_cut(caches):
                common -= common % self._step
            elif not whole:
                continue
            if common > shared:
                best, shared = key, common
        if shared < SHORTEST:
            return None, 0
        self.hits += 1
        self._entries.move_to_end((salt, best))
        return [_beginning(cache, shared) for cache in self._entries[salt, best][0]], shared

    def keep(self, tokens: list[int], caches: list[Any], salt: str = "") -> None:
        """Store a sequence's caches, unless they are short or larger than `max_bytes`.

        Args:
            tokens: the tokens that the caches hold.
            caches: the cache of each layer; they must not change afterwards.
            salt: isolates the entry; only requests with the same salt find it.
        """
        size = sum(cache.nbytes for cache in caches)
        if len(tokens) < SHORTEST or size > self.max_bytes:
            return
        key = salt, _key(tokens)
        for other in [other for other in self._entries if self._covers(key, caches, other)]:
            self._drop(other)
        self._entries[key] = (caches, size)
        self.bytes += size
        self.shrink(self.max_bytes)

    def shrink(self, to_bytes: int) -> None:
        """Remove entries until at most this many bytes are used."""
        while self._entries and self.bytes > to_bytes:
            self._drop(next(iter(self._entries)))

    def _covers(self, key: tuple[str, bytes], caches: list[Any], other: tuple[str, bytes]) -> bool:
        """Whether an entry becomes useless once `key` is stored."""
        same_salt = other[0] == key[0]
        return other == key or (same_salt and key[1].startswith(other[1]) and can_be_cut(caches))

    def _drop(self, key: tuple[str, bytes]) -> None:
        self.bytes -= self._entries.pop(key)[1]


def _key(tokens: list[int]) -> bytes:
    return array("I", tokens).tobytes()


def _common(one: bytes, other: bytes) -> int:
    """Count common leading tokens by bisection: slices compare at memory speed."""
    low, high = 0, min(len(one), len(other)) // 4
    a, b = memoryview(one), memoryview(other)
    while low < high:
        middle = (low + high + 1) // 2
        if a[4 * low : 4 * middle] == b[4 * low : 4 * middle]:
            low = middle
        else:
            high = middle - 1
    return low


def can_be_cut(caches: list[Any]) -> bool:
    """Whether caches can be trimmed to fewer tokens."""
    return all(type(cache) is KVCache for cache in caches)


def _beginning(cache: Any, tokens: int) -> Any:
    """Copy the first tokens of a cache; mlx copies arrays on write."""
    if type(cache) is not KVCache:
        return copy.deepcopy(cache)
    part = KVCache()
    part.keys = cache.keys[..., :tokens, :]
    part.values = cache.values[..., :tokens, :]
    part.offset = tokens
    return part
