"""What keeps one caller's prompts from another's where SHARED_PREFIX_CACHE is false."""

from __future__ import annotations

import hashlib
from array import array

import msgspec

# The prompt's first bytes are marked at this length and at each double of it, up to the last.
_FIRST, _LAST = 64, 2**17
_DIGEST = 12


class Apart(msgspec.Struct, frozen=True):
    """How an engine is told whose prompt it is.

    Args:
        salt: says nothing of the caller, and differs for each; prompts with another one share
            nothing with it.
        slot: the only one that an engine shall use that knows no salts; None for any.
        foreign: whether that slot holds another caller's prompt.
    """

    salt: str
    slot: int | None = None
    foreign: bool = True


def trail(owner: str, prompt: str | list[int] | list[int | str]) -> tuple[bytes, ...]:
    """Mark a caller, and the beginnings of a prompt, by hashes that only that caller's have.

    Args:
        owner: who asks.
        prompt: a text, or tokens.

    Returns:
        The mark of the caller first. Prompts of the same caller share as many of the others as
        they begin alike.
    """
    whole = hashlib.blake2b(hashlib.sha256(owner.encode()).digest(), digest_size=_DIGEST)
    marks, done, length = [whole.digest()], 0, _FIRST
    text = _bytes(prompt)
    while length <= min(len(text), _LAST):
        whole.update(text[done:length])
        marks.append(whole.digest())
        done, length = length, 2 * length
    return tuple(marks)


def _bytes(prompt: str | list[int] | list[int | str]) -> bytes:
    if isinstance(prompt, str):
        return prompt[:_LAST].encode()
    tokens = [token for token in prompt[: _LAST // 8] if isinstance(token, int)]
    return array("q", tokens).tobytes() if len(tokens) == len(prompt[: _LAST // 8]) else b""
