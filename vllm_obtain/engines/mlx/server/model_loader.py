"""Loads the model on the thread that will use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm import load as load_folder

from . import wired_memory
from .config import Config
from .detokenizer import TokenPieces
from .float32 import widen
from .guided_decoding import GrammarCompiler
from .memory_budget import MemoryBudget
from .tokenizer import PromptTokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model.

    Args:
        model: mlx-lm's model.
        prompts: tokenizes prompts.
        grammars: compiles grammars.
        pieces: the bytes of each token.
        ends: EOS tokens.
        vocabulary: size of the vocabulary.
        memory: the memory budget of the caches.
    """

    model: Any
    prompts: PromptTokenizer
    grammars: GrammarCompiler
    pieces: TokenPieces
    ends: set[int]
    vocabulary: int
    memory: MemoryBudget


def load(config: Config) -> LoadedModel:
    """Load the configured model."""
    wired_memory.forbid()
    if config.device == "cpu":
        mx.set_default_device(mx.cpu)
    if config.memory_bytes:
        mx.set_memory_limit(config.memory_bytes)
        mx.set_cache_limit(config.memory_bytes // 8)
    # Neither model nor tokenizer may execute code; mlx-lm refuses it for the model.
    untrusted = {"trust_remote_code": False}
    model, tokenizer = load_folder(config.model, tokenizer_config=untrusted, lazy=config.widen)
    if config.widen:
        widen(model)
    memory = MemoryBudget.plan(model, config.memory_bytes)
    vocabulary = model(mx.array([[0]])).shape[-1]
    return LoadedModel(
        model,
        PromptTokenizer(tokenizer, vocabulary),
        GrammarCompiler(tokenizer, vocabulary),
        TokenPieces(tokenizer),
        set(tokenizer.eos_token_ids),
        vocabulary,
        memory,
    )
