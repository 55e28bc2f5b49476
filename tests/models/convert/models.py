"""Writes small GGUF models of each family and type, with the writer of llama.cpp's own package."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize

HIDDEN, INNER, HEADS, KV_HEADS, HEAD, LAYERS = 256, 512, 4, 2, 64, 2
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
BYTES = [
    chr(code)
    for code in [*range(33, 127), *range(161, 173), *range(174, 256)]
    + [256 + n for n in range(256 - 94 - 12 - 82)]
]
WORDS: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES, "he", "Ġt"],
    "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(BYTES) + 2),
    "tokenizer.ggml.merges": ["h e", "Ġ t"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": TEMPLATE,
}


@dataclass
class Small:
    """A small model; its fields are what a test may change before it is written."""

    family: str = "llama"
    type: GGMLQuantizationType = GGMLQuantizationType.F16
    tied: bool = True
    seed: int = 0
    words: dict[str, Any] = field(default_factory=lambda: dict(WORDS))
    metadata: dict[str, Any] = field(default_factory=dict)
    hidden: int = HIDDEN
    values: dict[str, np.ndarray] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    more: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        """Write it, making its folders. `values` gets the numbers of the plain tensors."""
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = GGUFWriter(path, self.family)
        for key, value in {**self._sizes(), **self.words, **self.metadata}.items():
            if value is not None:
                _add(writer, key, value)
        draw = np.random.default_rng(self.seed)
        for name, shape in {**self.shapes(), **self.more}.items():
            if name not in self.without:
                self._tensor(writer, name, shape, draw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def shapes(self) -> dict[str, tuple[int, ...]]:
        vocabulary, hidden = len(self.words["tokenizer.ggml.tokens"]), self.hidden
        found: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (vocabulary, hidden),
            "output_norm.weight": (hidden,),
        }
        if not self.tied:
            found["output.weight"] = (vocabulary, hidden)
        for layer in range(LAYERS):
            found |= {f"blk.{layer}.{name}": shape for name, shape in self._layer().items()}
        return found

    def _layer(self) -> dict[str, tuple[int, ...]]:
        hidden, q, kv = self.hidden, HEADS * HEAD, KV_HEADS * HEAD
        found: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (hidden,),
            "ffn_norm.weight": (hidden,),
            "attn_q.weight": (q, hidden),
            "attn_k.weight": (kv, hidden),
            "attn_v.weight": (kv, hidden),
            "attn_output.weight": (hidden, q),
            "ffn_gate.weight": (INNER, hidden),
            "ffn_up.weight": (INNER, hidden),
            "ffn_down.weight": (hidden, INNER),
        }
        if self.family == "qwen2":
            found |= {f"attn_{x}.bias": (q if x == "q" else kv,) for x in "qkv"}
        if self.family == "qwen3":
            found |= {f"attn_{x}_norm.weight": (HEAD,) for x in "qk"}
        return found

    def _sizes(self) -> dict[str, Any]:
        sizes = {
            "context_length": 512,
            "embedding_length": self.hidden,
            "block_count": LAYERS,
            "feed_forward_length": INNER,
            "attention.head_count": HEADS,
            "attention.head_count_kv": KV_HEADS,
            "attention.key_length": HEAD,
            "attention.value_length": HEAD,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.freq_base": 10000.0,
            "rope.dimension_count": HEAD,
        }
        return {f"{self.family}.{name}": value for name, value in sizes.items()}

    def _tensor(
        self, writer: GGUFWriter, name: str, shape: tuple[int, ...], draw: np.random.Generator
    ) -> None:
        if name in self.values or len(shape) == 1:
            values = self.values.get(name, draw.normal(1, 0.1, shape)).astype(np.float32)
            self.values[name] = values
            writer.add_tensor(name, values)
            return
        data = blocks(self.type, shape, draw)
        writer.add_tensor(name, data, raw_dtype=self.type)


def blocks(kind: GGMLQuantizationType, shape: tuple[int, ...], draw: np.random.Generator) -> Any:
    """Rows of a tensor of this type, with numbers as real models have them."""
    try:
        return quantize(draw.normal(0, 0.05, shape).astype(np.float32), kind)
    except NotImplementedError:
        return _k_blocks(kind, shape, draw)


# K-quants, whose quantisation gguf lacks: where the 16-bit scales are in a block.
_SCALES_AT = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def _k_blocks(
    kind: GGMLQuantizationType, shape: tuple[int, ...], draw: np.random.Generator
) -> np.ndarray:
    elements, size = GGML_QUANT_SIZES[kind]
    count = shape[0] * shape[1] // elements
    raw = draw.integers(0, 256, (count, size), dtype=np.uint8)
    for at in _SCALES_AT[kind.name]:
        scales = draw.uniform(0.0005, 0.001, (count, 1)).astype(np.float16)
        raw[:, at : at + 2] = scales.view(np.uint8)
    return raw.reshape(shape[0], -1)


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
