"""BERT, which turns each text into one vector. Runs on the thread that owns the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


class Encoder:
    """A BERT with the pooling that its folder names.

    Args:
        folder: config.json, safetensors and perhaps 1_Pooling.
        wide: whether to compute with floats of 32 bits, whatever the files hold.

    Raises:
        SystemExit: it is none, or computes otherwise than BERT does.
    """

    def __init__(self, folder: str, wide: bool) -> None:
        root = Path(folder)
        config = json.loads((root / "config.json").read_bytes())
        for name, known in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            if config.get(name, known) != known:
                raise SystemExit(f"This server has BERT with the {name} {known} only.")
        self.vocabulary = int(config["vocab_size"])
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        self._pooling = _pooling(root / "1_Pooling" / "config.json")
        self._weights = _weights(root, wide)

    def __call__(self, texts: list[list[int]]) -> mx.array:
        """Compute a vector of length 1 for each text, given as its tokens."""
        lengths = mx.array([len(tokens) for tokens in texts])
        longest = max(map(len, texts))
        padded = mx.array([tokens + [0] * (longest - len(tokens)) for tokens in texts])
        there = mx.arange(longest)[None, :] < lengths[:, None]
        hidden = self._embed(padded)
        for layer in range(self._layers):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden, there[:, None, None, :])
        pooled = self._pool(hidden.astype(mx.float32), there, lengths)
        return pooled / mx.maximum(mx.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)

    def _embed(self, tokens: mx.array) -> mx.array:
        def table(name: str) -> mx.array:
            return self._weights[f"embeddings.{name}_embeddings.weight"]

        positions = table("position")[: tokens.shape[1]]
        # Every text is of the first of BERT's two kinds of segments.
        summed = table("word")[tokens] + positions + table("token_type")[0]
        return self._norm("embeddings.LayerNorm", summed)

    def _layer(self, name: str, hidden: mx.array, there: mx.array) -> mx.array:
        rows, length, width = hidden.shape

        def heads(part: str) -> mx.array:
            made = self._linear(f"{name}attention.self.{part}", hidden)
            return made.reshape(rows, length, self._heads, -1).transpose(0, 2, 1, 3)

        scale = (width // self._heads) ** -0.5
        mixed = mx.fast.scaled_dot_product_attention(
            heads("query"), heads("key"), heads("value"), scale=scale, mask=there
        )
        mixed = mixed.transpose(0, 2, 1, 3).reshape(rows, length, width)
        mixed = self._linear(f"{name}attention.output.dense", mixed)
        hidden = self._norm(f"{name}attention.output.LayerNorm", hidden + mixed)
        inner = nn.gelu(self._linear(f"{name}intermediate.dense", hidden))
        return self._norm(
            f"{name}output.LayerNorm", hidden + self._linear(f"{name}output.dense", inner)
        )

    def _linear(self, name: str, values: mx.array) -> mx.array:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return mx.addmm(bias, values, weight.T)

    def _norm(self, name: str, values: mx.array) -> mx.array:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return mx.fast.layer_norm(values, weight, bias, self._epsilon)

    def _pool(self, hidden: mx.array, there: mx.array, lengths: mx.array) -> mx.array:
        if self._pooling == "cls":
            return hidden[:, 0]
        if self._pooling == "last":
            return hidden[mx.arange(hidden.shape[0]), lengths - 1]
        return (hidden * there[..., None]).sum(axis=1) / lengths[:, None]


def _weights(root: Path, wide: bool) -> dict[str, mx.array]:
    """Read all tensors, by the names of today and without a prefix."""
    found: dict[str, mx.array] = {}
    for path in sorted(root.glob("*.safetensors")):
        for name, value in mx.load(str(path)).items():
            name = name.removeprefix("bert.")
            name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
            name = name.replace("LayerNorm.beta", "LayerNorm.bias")
            if name.startswith(("embeddings.", "encoder.")) and "position_ids" not in name:
                found[name] = value.astype(mx.float32) if wide else value
    mx.eval(found)
    return found


def _pooling(path: Path) -> str:
    if not path.exists():
        return "mean"
    content: dict[str, Any] = json.loads(path.read_bytes())
    asked = [name for name, value in content.items() if value is True and "mode" in name]
    if len(asked) != 1 or asked[0] not in _POOLINGS:
        raise SystemExit(f"This server cannot pool by {', '.join(asked) or 'nothing'}.")
    return _POOLINGS[asked[0]]
