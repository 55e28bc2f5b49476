"""Converts weights to float32 for CPUs.

MLX's CPU kernels for quantized and 16-bit weights are many times slower in prefill and in batches
than a BLAS, which supports float32 only. `mlx/sizing.py` decides whether the memory suffices.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.utils import dequantize_model


def widen(model: Any) -> None:
    """Replace a model's weights in place, layer by layer, to limit the peak of memory."""
    dequantize_model(model)
    model.set_dtype(mx.float32)
    for layer in getattr(model, "layers", []):
        mx.eval(layer.parameters())
    mx.eval(model.parameters())
    mx.clear_cache()
