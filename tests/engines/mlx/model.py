"""A tiny random llama in a folder, with a real byte-level tokenizer; no mlx, no hub."""

from __future__ import annotations

import json
import random
import struct
from array import array
from pathlib import Path

MARKS = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"]
HIDDEN, LAYERS, HEADS, KV_HEADS, INNER = 64, 2, 4, 2, 128
VOCABULARY = 256 + len(MARKS)
END = 256 + MARKS.index("<|end|>")
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'forbidden' %}{{ raise_exception('not this role') }}"
    "{% endif %}<|user|>{{ m.content }}{% endfor %}<|assistant|>"
)


def write_model(folder: Path, seed: int = 1, context: int = 8192) -> Path:
    """Write a model whose weights are drawn from a seed; in floats of 32 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": context,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "eos_token_id": END,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    _write_weights(folder / "model.safetensors", random.Random(seed))  # noqa: S311 - no secret
    return folder


def letters() -> list[str]:
    """GPT-2's letter for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _tokenizer() -> dict[str, object]:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    added = [
        {"id": 256 + n, "content": mark, "special": True, "single_word": False}
        | {"lstrip": False, "rstrip": False, "normalized": False}
        for n, mark in enumerate(MARKS)
    ]
    vocabulary = {letter: byte for byte, letter in enumerate(letters())}
    vocabulary |= {mark: 256 + n for n, mark in enumerate(MARKS)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": level | {"use_regex": True},
        "post_processor": None,
        "decoder": level | {"use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": False},
    }


def _shapes() -> dict[str, tuple[int, ...]]:
    kv = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        shapes |= {
            start + "input_layernorm.weight": (HIDDEN,),
            start + "post_attention_layernorm.weight": (HIDDEN,),
            start + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            start + "self_attn.k_proj.weight": (kv, HIDDEN),
            start + "self_attn.v_proj.weight": (kv, HIDDEN),
            start + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            start + "mlp.gate_proj.weight": (INNER, HIDDEN),
            start + "mlp.up_proj.weight": (INNER, HIDDEN),
            start + "mlp.down_proj.weight": (HIDDEN, INNER),
        }
    return shapes


def _write_weights(path: Path, rng: random.Random) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    parts: list[bytes] = []
    place = 0
    for name, shape in _shapes().items():
        data = (
            _readable(_random_tensor(shape, rng))
            if name == "lm_head.weight"
            else _random_tensor(shape, rng)
        )
        header[name] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [place, place + len(data)],
        }
        parts.append(data)
        place += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def _random_tensor(shape: tuple[int, ...], rng: random.Random) -> bytes:
    if len(shape) == 1:
        return array("f", [1.0] * shape[0]).tobytes()
    return array("f", (rng.gauss(0, 0.3) for _ in range(shape[0] * shape[1]))).tobytes()


def _readable(head: bytes) -> bytes:
    """Leave logits to small letters and spaces: what the model says can be read and compared."""
    size = HIDDEN * 4
    spoken = set(b"abcdefghijklmnopqrstuvwxyz ")
    return b"".join(
        head[token * size : (token + 1) * size] if token in spoken else bytes(size)
        for token in range(VOCABULARY)
    )
