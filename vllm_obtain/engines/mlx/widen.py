"""Weights as floats of 32 bits, for processors: what a BLAS multiplies.

MLX's kernels for quantised and 16-bit weights on a CPU are many times slower at prompts and
batches than a BLAS, which knows floats of 32 bits only. `mlx_sizing.py` says whether there is room.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.utils import dequantize_model


def widen(model: Any) -> None:
    """Replace the weights of a model in place; a layer at a time is twice in memory at most."""
    dequantize_model(model)
    model.set_dtype(mx.float32)
    for layer in getattr(model, "layers", []):
        mx.eval(layer.parameters())
    mx.eval(model.parameters())
    mx.clear_cache()
