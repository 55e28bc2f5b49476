"""A model of random weights with a real tokenizer: the speed of a real one, from nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

# A Qwen2 of 1.4 billion parameters with the vocabulary of the embedded model.
SHAPE = {
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make(folder: Path, tokenizer: Path) -> float:
    """Write a Hugging Face folder.

    Args:
        folder: where; made if needed.
        tokenizer: a folder whose tokenizer and chat template it gets.

    Returns:
        Billions of parameters.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).to(torch.bfloat16)
    _mute(model, tokenizer)
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, folder)
    return sum(parameter.numel() for parameter in model.parameters()) / 1e9


def _mute(model: Any, tokenizer: Path) -> None:
    """Leave it only tokens that are text by themselves.

    A stream with a part of a character has nothing to send, and what is a pause between two texts
    would not be one between two tokens.
    """
    import torch
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)
    texts = [words.decode([token]) for token in range(SHAPE["vocab_size"])]
    speaks = [text.isascii() and text.isprintable() and bool(text.strip()) for text in texts]
    silent = [
        token for token, can in enumerate(speaks) if not can or token in words.all_special_ids
    ]
    with torch.no_grad():
        # What its embedding is tied to: the token's score is 0 then, and others' are above.
        model.get_input_embeddings().weight[silent] = 0
