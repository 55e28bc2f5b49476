"""A two-layer model of random weights with a real tokenizer: fast where a real one is slow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy
from safetensors.numpy import save_file
from tokenizers import Tokenizer

HIDDEN, LAYERS, HEADS, KV_HEADS, INNER = 64, 2, 4, 2, 128
# Large enough that tokens without text are not drawn, small enough that a logit bias decides.
SPREAD = 0.5


def write(folder: Path, like: Path, context: int | None = None) -> Path:
    """Write a Hugging Face folder.

    Args:
        folder: where; its name is the model's.
        like: a llama in such a folder, whose tokenizer, chat template and context it gets.
        context: another context length, in tokens.
    """
    folder.mkdir(parents=True)
    for file in like.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    config = json.loads((like / "config.json").read_text())
    config.pop("quantization", None)
    config |= {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HIDDEN // HEADS,
        "intermediate_size": INNER,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    if context is not None:
        config["max_position_embeddings"] = context
    (folder / "config.json").write_text(json.dumps(config))
    weights = _weights(config["vocab_size"])
    weights["lm_head.weight"][_silent(folder / "tokenizer.json", config["vocab_size"])] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _weights(vocabulary: int) -> dict[str, numpy.ndarray]:
    head = HIDDEN // HEADS
    shapes = {"model.embed_tokens": (vocabulary, HIDDEN), "lm_head": (vocabulary, HIDDEN)}
    norms = ["model.norm"]
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        norms += [start + "input_layernorm", start + "post_attention_layernorm"]
        shapes |= {
            start + "self_attn.q_proj": (HIDDEN, HIDDEN),
            start + "self_attn.k_proj": (KV_HEADS * head, HIDDEN),
            start + "self_attn.v_proj": (KV_HEADS * head, HIDDEN),
            start + "self_attn.o_proj": (HIDDEN, HIDDEN),
            start + "mlp.gate_proj": (INNER, HIDDEN),
            start + "mlp.up_proj": (INNER, HIDDEN),
            start + "mlp.down_proj": (HIDDEN, INNER),
        }
    chance = numpy.random.default_rng(1)
    drawn = {
        f"{name}.weight": chance.normal(0, SPREAD, shape).astype("float32")
        for name, shape in shapes.items()
    }
    return drawn | {f"{name}.weight": numpy.ones(HIDDEN, "float32") for name in norms}


def _silent(tokenizer: Path, vocabulary: int) -> list[int]:
    """The tokens that are not text by themselves: a stream with one has nothing to send."""
    words = Tokenizer.from_file(str(tokenizer))
    texts = words.decode_batch([[token] for token in range(vocabulary)])
    return [
        token
        for token, text in enumerate(texts)
        if not (text.isascii() and text.isprintable() and text.strip())
    ]
