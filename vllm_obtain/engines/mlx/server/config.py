"""The server's configuration, read from its command-line argument."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """The configuration of the server.

    Args:
        model: path of a folder with config.json, tokenizer and safetensors.
        socket: path of the Unix socket.
        slots: sequences that are processed at once; others wait.
        context: context length of one request in tokens.
        memory_bytes: limit for weights, caches and activations together; 0 for none.
        prefill_chunk: prompt tokens processed between two decode steps.
        prefill_parts: number of steps per chunk, each with a part of the layers.
        prompt_step: chunks are padded to multiples of this many tokens, for devices that have to
            prepare for each new shape.
        prefix_cache_bytes: limit of the prefix cache, part of `memory_bytes`.
        widen: whether to convert weights to float32 (see `float32.py`).
        kind: `chat`, or `embedding` for an encoder.
        device: `cpu` to not use the GPU, `auto` for the device that mlx was built for.
    """

    model: str
    socket: str
    slots: int = 32
    context: int = 4096
    memory_bytes: int = 0
    prefill_chunk: int = 256
    prefill_parts: int = 1
    prompt_step: int = 1
    prefix_cache_bytes: int = 1 << 28
    widen: bool = False
    device: str = "auto"
    kind: str = "chat"

    @classmethod
    def read(cls, text: str) -> Config:
        """Parse the JSON argument."""
        return cls(**json.loads(text))
