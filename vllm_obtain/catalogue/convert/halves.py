"""Tensors as 16-bit numbers."""

from __future__ import annotations

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.convert.jobs import BF16, F16


def to_halves(rows: NDArray[np.uint8], type_id: int, dtype: str) -> bytes:
    """Turn rows of a tensor into 16-bit numbers, rounded to the nearest.

    Args:
        rows: as they are in the file.
        type_id: ggml's number of their type.
        dtype: `F16` or `BF16`.

    Raises:
        ConversionError: a number is too large for it.
    """
    if (type_id, dtype) in ((F16, "F16"), (BF16, "BF16")):
        return rows.tobytes()
    values = dequantize(rows, GGMLQuantizationType(type_id))
    with np.errstate(over="ignore"):
        halves = quantize(values, GGMLQuantizationType[dtype])
    if dtype == "F16" and not np.isfinite(halves).all():
        raise ConversionError("The model has numbers that are too large for 16 bits (F16).")
    return halves.tobytes()
