"""Log probabilities as in OpenAI's API: of the model's distribution, before any penalty."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .detokenizer import TokenPieces

# Per sequence: log probability of its token, then ids and log probabilities of the alternatives.
TokenLogprobs = tuple[mx.array, mx.array, mx.array] | None


def select_logprobs(
    logits: mx.array, sampled: mx.array, counts: list[int | None]
) -> list[TokenLogprobs]:
    """Select the log probabilities to return, without computing them yet.

    Args:
        logits: array of shape (sequences, vocabulary).
        sampled: the sampled token of each sequence.
        counts: number of alternatives for each sequence, None for no log probabilities.
    """
    most = max((number for number in counts if number is not None), default=None)
    if most is None:
        return [None] * len(counts)
    most = max(1, min(most, logits.shape[-1] - 1))
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, sampled[:, None], axis=-1)
    ids = mx.argpartition(-logprobs, most - 1, axis=-1)[:, :most]
    values = mx.take_along_axis(logprobs, ids, axis=-1)
    return [
        None if number is None else (chosen[index], ids[index], values[index])
        for index, number in enumerate(counts)
    ]


def entry(token: int, logprobs: TokenLogprobs, count: int, pieces: TokenPieces) -> dict[str, Any]:
    """Build an entry of `logprobs.content` for one token."""
    assert logprobs is not None  # noqa: S101 - selected for every such sequence
    chosen, ids, values = logprobs
    pairs = sorted(zip(values.tolist(), ids.tolist(), strict=True), reverse=True)
    return {
        **_named(token, chosen.item(), pieces),
        "top_logprobs": [_named(other, value, pieces) for value, other in pairs[:count]],
    }


def _named(token: int, logprob: float, pieces: TokenPieces) -> dict[str, Any]:
    piece = pieces.name(token)
    # JSON has no infinity; OpenAI uses -9999.0 for very unlikely tokens.
    return {
        "id": token,
        "token": piece.decode(errors="replace"),
        "bytes": list(piece),
        "logprob": max(logprob, -9999.0),
    }
