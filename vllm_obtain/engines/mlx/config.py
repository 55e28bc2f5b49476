"""What the adapter tells the server to do, read once from its argument."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """How to serve.

    Args:
        model: a folder with config.json, tokenizer and safetensors.
        socket: where to listen.
        slots: requests that are processed at once; others wait their turn.
        context: tokens of one request, prompt and completion.
        memory_bytes: what weights, caches and work may take together; 0 for no bound.
        prefill_chunk: tokens of a prompt that are processed between two decode steps.
        prefill_parts: in so many steps, each with a part of the layers.
        prompt_step: pieces of prompts are padded to multiples of so many tokens, for devices that
            prepare anew for every shape.
        prefix_cache_bytes: what caches of past requests may take of it.
        widen: whether weights are turned into floats of 32 bits (see `widen.py`).
        kind: `chat`, or `embedding` for an encoder.
        device: `cpu` to leave a GPU alone, otherwise what mlx was built for.
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
        """Read the JSON argument."""
        return cls(**json.loads(text))
