"""BERT, which computes one embedding per text. Runs on the thread that owns the model."""

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
    """A BERT model with the pooling that its folder configures.

    Args:
        folder: path of a folder with config.json, safetensors and optionally 1_Pooling.
        float32: whether to compute in float32, whatever the type of the weights.

    Raises:
        SystemExit: it is not a BERT model, or has an unsupported variant.
    """

    def __init__(self, folder: str, float32: bool) -> None:
        root = Path(folder)
        config = json.loads((root / "config.json").read_bytes())
        for name, known in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            if config.get(name, known) != known:
                raise SystemExit(
                    f"Unsupported model: this server requires BERT with {name} {known}."
                )
        self.vocabulary = int(config["vocab_size"])
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        self._pooling = _pooling(root / "1_Pooling" / "config.json")
        self._weights = _weights(root, float32)

    def __call__(self, texts: list[list[int]]) -> mx.array:
        """Compute an L2-normalized embedding for each text, given as token ids."""
        lengths = mx.array([len(tokens) for tokens in texts])
        longest = max(map(len, texts))
        padded = mx.array([tokens + [0] * (longest - len(tokens)) for tokens in texts])
        mask = mx.arange(longest)[None, :] < lengths[:, None]
        hidden = self._embed(padded)
        for layer in range(self._layers):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden, mask[:, None, None, :])
        pooled = self._pool(hidden.astype(mx.float32), mask, lengths)
        return pooled / mx.maximum(mx.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)

    def _embed(self, tokens: mx.array) -> mx.array:
        def table(name: str) -> mx.array:
            return self._weights[f"embeddings.{name}_embeddings.weight"]

        positions = table("position")[: tokens.shape[1]]
        # All tokens have the first of BERT's two segment types.
        summed = table("word")[tokens] + positions + table("token_type")[0]
        return self._norm("embeddings.LayerNorm", summed)

    def _layer(self, name: str, hidden: mx.array, mask: mx.array) -> mx.array:
        batch, length, width = hidden.shape

        def heads(part: str) -> mx.array:
            projected = self._linear(f"{name}attention.self.{part}", hidden)
            return projected.reshape(batch, length, self._heads, -1).transpose(0, 2, 1, 3)

        scale = (width // self._heads) ** -0.5
        mixed = mx.fast.scaled_dot_product_attention(
            heads("query"), heads("key"), heads("value"), scale=scale, mask=mask
        )
        mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, length, width)
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

    def _pool(self, hidden: mx.array, mask: mx.array, lengths: mx.array) -> mx.array:
        if self._pooling == "cls":
            return hidden[:, 0]
        if self._pooling == "last":
            return hidden[mx.arange(hidden.shape[0]), lengths - 1]
        return (hidden * mask[..., None]).sum(axis=1) / lengths[:, None]


def _weights(root: Path, float32: bool) -> dict[str, mx.array]:
    """Load all tensors, with current names and without a prefix."""
    weights: dict[str, mx.array] = {}
    for path in sorted(root.glob("*.safetensors")):
        for name, value in mx.load(str(path)).items():
            name = name.removeprefix("bert.")
            name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
            name = name.replace("LayerNorm.beta", "LayerNorm.bias")
            if name.startswith(("embeddings.", "encoder.")) and "position_ids" not in name:
                weights[name] = value.astype(mx.float32) if float32 else value
    mx.eval(weights)
    return weights


def _pooling(path: Path) -> str:
    if not path.exists():
        return "mean"
    content: dict[str, Any] = json.loads(path.read_bytes())
    modes = [name for name, value in content.items() if value is True and "mode" in name]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise SystemExit(f"Unsupported pooling: {', '.join(modes) or 'none'}.")
    return _POOLINGS[modes[0]]
