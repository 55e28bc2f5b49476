"""Loads the model, on the thread that will use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm import load as load_folder

from . import wired
from .config import Config
from .grammar import Grammars
from .memory import Memory
from .prompt import Prompts
from .text import Pieces
from .widen import widen


@dataclass(frozen=True)
class Loaded:
    """A model and what belongs to it.

    Args:
        model: mlx-lm's.
        prompts: makes tokens of requests.
        grammars: makes grammars of schemas.
        pieces: makes bytes of tokens.
        ends: tokens with which the model ends an answer.
        vocabulary: how many tokens it knows.
        memory: what caches may take.
    """

    model: Any
    prompts: Prompts
    grammars: Grammars
    pieces: Pieces
    ends: set[int]
    vocabulary: int
    memory: Memory


def load(config: Config) -> Loaded:
    """Load what the configuration names."""
    wired.forbid()
    if config.device == "cpu":
        mx.set_default_device(mx.cpu)
    if config.memory_bytes:
        mx.set_memory_limit(config.memory_bytes)
        mx.set_cache_limit(config.memory_bytes // 8)
    # Neither model nor tokenizer may bring programs along; mlx-lm refuses them for the model.
    untrusted = {"trust_remote_code": False}
    model, tokenizer = load_folder(config.model, tokenizer_config=untrusted, lazy=config.widen)
    if config.widen:
        widen(model)
    memory = Memory.plan(model, config.memory_bytes)
    vocabulary = model(mx.array([[0]])).shape[-1]
    return Loaded(
        model,
        Prompts(tokenizer, vocabulary),
        Grammars(tokenizer, vocabulary),
        Pieces(tokenizer),
        set(tokenizer.eos_token_ids),
        vocabulary,
        memory,
    )
