"""Requests of nobody, answered before the first real one: for what devices compile at first use."""

from __future__ import annotations

import mlx.core as mx

from .config import Config
from .request import Request, Sampling

ANSWER = 4


def rehearsal(config: Config) -> list[list[Request]]:
    """Make them.

    On a processor nothing is compiled that would be worth the seconds, and on Metal little for
    the long pieces of prompts that CUDA takes half a second to choose its kernels for.

    Args:
        config: whose limits they keep to.

    Returns:
        One alone, and then several that come at once, of different lengths.
    """
    if config.device == "cpu" or config.slots < 3:
        return []
    alone = 64 if mx.metal.is_available() else config.prefill_chunk + 64
    waves = [[alone], [64, 40, 24]]
    most = config.context - ANSWER - 1
    return [[_request(min(most, length), n) for n, length in enumerate(wave)] for wave in waves]


def _request(length: int, number: int) -> Request:
    return Request(
        tokens=[(number + place) % 64 for place in range(length)],
        max_tokens=ANSWER,
        bounded=True,
        sampling=Sampling(temperature=float(number % 2)),
        stop=[],
        logprobs=None,
        tell=lambda _: None,
    )
