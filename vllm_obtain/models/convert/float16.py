"""Converts tensors to 16-bit floats."""

from __future__ import annotations

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.tensor_jobs import BF16, F16


def to_16_bit(rows: NDArray[np.uint8], type_id: int, dtype: str) -> bytes:
    """Convert rows of a tensor to 16-bit floats, rounded to the nearest value.

    Args:
        rows: the rows as stored in the file.
        type_id: their ggml type.
        dtype: `F16` or `BF16`.

    Raises:
        ConversionError: a value is out of range.
    """
    if (type_id, dtype) in ((F16, "F16"), (BF16, "BF16")):
        return rows.tobytes()
    values = dequantize(rows, GGMLQuantizationType(type_id))
    with np.errstate(over="ignore"):
        halves = quantize(values, GGMLQuantizationType[dtype])
    if dtype == "F16" and not np.isfinite(halves).all():
        raise ConversionError("The model has values that are out of range for F16. Use llama.cpp.")
    return halves.tobytes()
