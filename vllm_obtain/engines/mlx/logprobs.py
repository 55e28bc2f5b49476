"""Log probabilities as OpenAI tells them: of the model's own distribution, before any penalty."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .text import Pieces

# Per row: the log probability of its token, then ids and log probabilities of the likeliest.
Told = tuple[mx.array, mx.array, mx.array] | None


def look(logits: mx.array, drawn: mx.array, wanted: list[int | None]) -> list[Told]:
    """Note what has to be told about the drawn tokens, without computing it yet.

    Args:
        logits: rows x vocabulary.
        drawn: a token per row.
        wanted: how many alternatives each row asked for, None for nothing at all.
    """
    most = max((number for number in wanted if number is not None), default=None)
    if most is None:
        return [None] * len(wanted)
    most = max(1, min(most, logits.shape[-1] - 1))
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, drawn[:, None], axis=-1)
    ids = mx.argpartition(-logprobs, most - 1, axis=-1)[:, :most]
    values = mx.take_along_axis(logprobs, ids, axis=-1)
    return [
        None if number is None else (chosen[row], ids[row], values[row])
        for row, number in enumerate(wanted)
    ]


def entry(token: int, told: Told, wanted: int, pieces: Pieces) -> dict[str, Any]:
    """Shape what was noted about one token as an entry of `logprobs.content`."""
    assert told is not None  # noqa: S101 - noted for every row that asked
    chosen, ids, values = told
    pairs = sorted(zip(values.tolist(), ids.tolist(), strict=True), reverse=True)
    return {
        **_named(token, chosen.item(), pieces),
        "top_logprobs": [_named(other, value, pieces) for value, other in pairs[:wanted]],
    }


def _named(token: int, logprob: float, pieces: Pieces) -> dict[str, Any]:
    piece = pieces.name(token)
    # JSON knows no infinity, and OpenAI tells -9999.0 for "as good as never".
    return {
        "id": token,
        "token": piece.decode(errors="replace"),
        "bytes": list(piece),
        "logprob": max(logprob, -9999.0),
    }
