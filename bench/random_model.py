"""Creates a model with random weights and a real tokenizer, as fast as a trained one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

# A Qwen2 model with 1.4B parameters and the vocabulary of the embedded model.
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
        folder: target folder.
        tokenizer: folder with the tokenizer and chat template to copy.

    Returns:
        Billions of parameters.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).to(torch.bfloat16)
    _remove_partial_characters(model, tokenizer)
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, folder)
    return sum(parameter.numel() for parameter in model.parameters()) / 1e9


def _remove_partial_characters(model: Any, tokenizer: Path) -> None:
    """Restrict the model to tokens that are complete characters.

    A token with a part of a character produces no text, so a pause between two texts would not be a
    pause between two tokens.
    """
    import torch
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(tokenizer)
    texts = [vocabulary.decode([token]) for token in range(SHAPE["vocab_size"])]
    printable = [text.isascii() and text.isprintable() and bool(text.strip()) for text in texts]
    removed = [
        token
        for token, is_printable in enumerate(printable)
        if not is_printable or token in vocabulary.all_special_ids
    ]
    with torch.no_grad():
        # The output layer is tied to the embedding: these logits become 0, others are above.
        model.get_input_embeddings().weight[removed] = 0
