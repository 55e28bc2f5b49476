"""Writes small BERT folders, as sentence-transformers saves them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, INNER, HEADS, LAYERS, POSITIONS = 32, 64, 4, 2, 64
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "cat", "##s", "sun", "é"]
_LINEAR = {
    "attention.self.query": (HIDDEN, HIDDEN),
    "attention.self.key": (HIDDEN, HIDDEN),
    "attention.self.value": (HIDDEN, HIDDEN),
    "attention.output.dense": (HIDDEN, HIDDEN),
    "intermediate.dense": (INNER, HIDDEN),
    "output.dense": (HIDDEN, INNER),
}
_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


@dataclass
class SmallBert:
    """A small BERT; its fields are what a test may change before it is written."""

    config: dict[str, Any] = field(default_factory=dict)
    pooling: dict[str, Any] = field(default_factory=lambda: {"pooling_mode_cls_token": True})
    modules: list[str] = field(default_factory=lambda: ["Transformer", "Pooling"])
    tokenizer: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""
    halves: bool = False
    values: dict[str, np.ndarray] = field(default_factory=dict)
    without: str = ""

    def write(self, folder: Path) -> Path:
        """Write it, making its folders. `values` gets the numbers by their names in the file."""
        (folder / "1_Pooling").mkdir(parents=True)
        modules = [{"type": f"sentence_transformers.models.{name}"} for name in self.modules]
        for name, content in {
            "config.json": {**self._config(), **self.config},
            "modules.json": modules,
            "1_Pooling/config.json": {"word_embedding_dimension": HIDDEN, **self.pooling},
            "sentence_bert_config.json": {"max_seq_length": POSITIONS // 2},
            "tokenizer.json": {**_tokenizer(), **self.tokenizer},
        }.items():
            (folder / name).write_text(json.dumps(content))
        self._weights(folder / "model.safetensors")
        return folder

    def _config(self) -> dict[str, Any]:
        return {
            "architectures": ["BertModel"],
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "max_position_embeddings": POSITIONS,
            "type_vocab_size": 2,
            "vocab_size": len(WORDS),
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
        }

    def _weights(self, path: Path) -> None:
        draw = np.random.default_rng(0)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        data = b""
        for name, shape in self._shapes().items():
            if self.without and self.without in name:
                continue
            values = draw.normal(0, 0.1, shape).astype(np.float32)
            raw = (values.view(np.uint32) >> 16).astype(np.uint16) if self.halves else values
            if self.halves:
                values = (raw.astype(np.uint32) << 16).view(np.float32)
            self.values[name] = values
            header[self.prefix + name] = {
                "dtype": "BF16" if self.halves else "F32",
                "shape": shape,
                "data_offsets": [len(data), len(data) + raw.nbytes],
            }
            data += raw.tobytes()
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (len(WORDS), HIDDEN),
            "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
            "embeddings.token_type_embeddings.weight": (2, HIDDEN),
            "embeddings.LayerNorm.weight": (HIDDEN,),
            "embeddings.LayerNorm.bias": (HIDDEN,),
            "pooler.dense.weight": (HIDDEN, HIDDEN),
        }
        for layer in range(LAYERS):
            start = f"encoder.layer.{layer}."
            for name, shape in _LINEAR.items():
                found |= {f"{start}{name}.weight": shape, f"{start}{name}.bias": shape[:1]}
            for name in _NORMS:
                found |= {f"{start}{name}.{part}": (HIDDEN,) for part in ("weight", "bias")}
        return found


def _tokenizer() -> dict[str, Any]:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    return {
        "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": vocabulary},
    }
