"""A model of random weights with a real tokenizer: the speed of a real one, from nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

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
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, folder)
    return sum(parameter.numel() for parameter in model.parameters()) / 1e9
