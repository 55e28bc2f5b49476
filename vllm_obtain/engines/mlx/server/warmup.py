"""Warm-up requests that trigger kernel compilation before the first real one."""

from __future__ import annotations

import mlx.core as mx

from .config import Config
from .request import Request, Sampling

MAX_TOKENS = 4


def warmup_requests(config: Config) -> list[list[Request]]:
    """Create the warm-up requests.

    A CPU compiles nothing. Only CUDA needs a long prompt: it takes half a second to choose kernels
    for a prefill chunk.

    Args:
        config: the server configuration.

    Returns:
        Waves of concurrent requests: first a single one, then several of different lengths.
    """
    if config.device == "cpu" or config.slots < 3:
        return []
    single = 64 if mx.metal.is_available() else config.prefill_chunk + 64
    waves = [[single], [64, 40, 24]]
    most = config.context - MAX_TOKENS - 1
    return [[_request(min(most, length), n) for n, length in enumerate(wave)] for wave in waves]


def _request(length: int, number: int) -> Request:
    return Request(
        tokens=[(number + position) % 64 for position in range(length)],
        max_tokens=MAX_TOKENS,
        bounded=True,
        sampling=Sampling(temperature=float(number % 2)),
        stop=[],
        logprobs=None,
        on_event=lambda _: None,
    )
