"""Isolates the prefix caches of callers from each other when SHARED_PREFIX_CACHE is false."""

from __future__ import annotations

import hashlib
from array import array

import msgspec

# The prompt is hashed up to this many bytes and up to each doubling of it, until the last.
_FIRST, _LAST = 64, 2**17
_DIGEST = 12


class CacheIsolation(msgspec.Struct, frozen=True):
    """How an engine isolates the prefix cache of a caller.

    Args:
        salt: a string that differs for each caller and does not reveal it; prompts with different
            salts share no cache entries.
        slot: the slot to use in an engine without salts; None for any.
        foreign: whether that slot holds another caller's prompt.
    """

    salt: str
    slot: int | None = None
    foreign: bool = True


def compute_prefix_hashes(
    owner: str, prompt: str | list[int] | list[int | str]
) -> tuple[bytes, ...]:
    """Hash a caller, and prefixes of its prompt together with the caller.

    Args:
        owner: identifies the caller.
        prompt: a text or token ids.

    Returns:
        The hash of the caller, then those of the prefixes. Two prompts of a caller share as many
        of them as their common prefix is long.
    """
    digest = hashlib.blake2b(hashlib.sha256(owner.encode()).digest(), digest_size=_DIGEST)
    hashes, done, length = [digest.digest()], 0, _FIRST
    text = _bytes(prompt)
    while length <= min(len(text), _LAST):
        digest.update(text[done:length])
        hashes.append(digest.digest())
        done, length = length, 2 * length
    return tuple(hashes)


def _bytes(prompt: str | list[int] | list[int | str]) -> bytes:
    if isinstance(prompt, str):
        return prompt[:_LAST].encode()
    tokens = [token for token in prompt[: _LAST // 8] if isinstance(token, int)]
    return array("q", tokens).tobytes() if len(tokens) == len(prompt[: _LAST // 8]) else b""
