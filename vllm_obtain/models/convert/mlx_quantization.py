"""Converts ggml's quantization blocks to MLX's affine quantization.

MLX divides a row into groups of 32 values. Each group has a scale and a bias:
`value = scale * q + bias` with unsigned q (mlx.core.quantize, mlx/ops.cpp). The q of a row are
packed as one stream of bits, lowest first, in 32-bit words.

ggml's basic types (ggml/src/ggml-common.h, dequantize_row_* in ggml-quants.c) are equivalent:

    Q4_0, Q5_0   d (q - 8), d (q - 16)    scale d, bias -8 d or -16 d
    Q4_1, Q5_1   d q + m                  scale d, bias m
    Q8_0         d q, q signed            scale d, bias -128 d, q + 128
    Q4_K, Q5_K   d s q - dmin m           scale d s, bias -dmin m, rounded to 16 bits

All but the last line are exact: d and m have 16 bits, and 8, 16 and 128 are powers of two. Types
with groups of 16 (Q2_K, Q3_K, Q6_K) are dequantized and quantized again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import Q4_K, dequantize
from numpy.typing import NDArray

from vllm_obtain.models.convert.tensor_jobs import GROUP, REQUANTIZED
from vllm_obtain.models.gguf.tables import TENSOR_BLOCKS

Bytes = NDArray[np.uint8]
Halves = NDArray[np.float16]
# q of groups of 32 values, scales, biases
Groups = tuple[Bytes, Halves, Halves]


def to_affine(rows: Bytes, type_id: int, bits: int) -> tuple[NDArray[np.uint32], Halves, Halves]:
    """Convert rows of a tensor to affine quantization.

    Args:
        rows: the rows as stored in the file.
        type_id: their ggml type.
        bits: bits per value.

    Returns:
        The packed rows, their scales and their biases.
    """
    count = len(rows)
    if type_id in REQUANTIZED:
        q, scales, biases = requantize(dequantize(rows, GGMLQuantizationType(type_id)), bits)
    else:
        blocks = rows.reshape(-1, TENSOR_BLOCKS[type_id][1])
        q, scales, biases = _READERS[type_id](blocks)
    packed = pack(q, bits).reshape(count, -1).view(np.uint32)
    return packed, scales.reshape(count, -1), biases.reshape(count, -1)


def pack(q: Bytes, bits: int) -> Bytes:
    """Pack rows of 32 values into `bits` bits each, lowest first."""
    if bits == 8:
        return q
    if bits == 4:
        return q[:, 0::2] | (q[:, 1::2] << np.uint8(4))
    spread = np.unpackbits(q[:, :, None], axis=-1, count=bits, bitorder="little")
    return np.packbits(spread.reshape(len(q), -1), axis=-1, bitorder="little")


def requantize(values: NDArray[np.float32], bits: int) -> Groups:
    """Quantize groups of 32 values with equal steps from the smallest to the largest."""
    groups = values.reshape(-1, GROUP)
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    steps = (1 << bits) - 1
    # Rounded to 16 bits before q is computed, so that q compensates for the rounding.
    biases = low.astype(np.float16)
    scales = ((high - biases.astype(np.float32)) / steps).astype(np.float16)
    divisor = np.where(scales == 0, np.inf, scales).astype(np.float32)
    q = np.clip(np.rint((groups - biases.astype(np.float32)) / divisor), 0, steps)
    return q.astype(np.uint8), scales, biases


def _halves(blocks: Bytes, at: int) -> Halves:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)


def _nibbles(packed: Bytes) -> Bytes:
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=1)


def _fifth_bits(packed: Bytes) -> Bytes:
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _q4_0(blocks: Bytes) -> Groups:
    d = _halves(blocks, 0)
    return _nibbles(blocks[:, 2:]), d, d * np.float16(-8)


def _q4_1(blocks: Bytes) -> Groups:
    return _nibbles(blocks[:, 4:]), _halves(blocks, 0), _halves(blocks, 2)


def _q5_0(blocks: Bytes) -> Groups:
    d = _halves(blocks, 0)
    return _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6]), d, d * np.float16(-16)


def _q5_1(blocks: Bytes) -> Groups:
    q = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return q, _halves(blocks, 0), _halves(blocks, 2)


def _q8_0(blocks: Bytes) -> Groups:
    d = _halves(blocks, 0)
    return blocks[:, 2:] ^ np.uint8(128), d, d * np.float16(-128)


def _k_scales(blocks: Bytes) -> tuple[Halves, Halves]:
    """Return scales and biases of the eight groups of each Q4_K or Q5_K block."""
    factors, minima = Q4_K.get_scale_min(blocks[:, 4:16])
    d, dmin = (_halves(blocks, at).astype(np.float32) for at in (0, 2))
    return (d * factors).astype(np.float16), (-dmin * minima).astype(np.float16)


def _q4_k(blocks: Bytes) -> Groups:
    low = blocks[:, 16:].reshape(len(blocks), 4, 1, 32) >> np.array([[0], [4]], np.uint8)
    return (low & np.uint8(15)).reshape(-1, GROUP), *_k_scales(blocks)


def _q5_k(blocks: Bytes) -> Groups:
    low = blocks[:, 48:].reshape(len(blocks), 4, 1, 32) >> np.array([[0], [4]], np.uint8)
    high = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]
    q = (low & np.uint8(15)).reshape(-1, 8, 32) | ((high & np.uint8(1)) << np.uint8(4))
    return q.reshape(-1, GROUP), *_k_scales(blocks)


_READERS: Final[dict[int, Callable[[Bytes], Groups]]] = {
    2: _q4_0,
    3: _q4_1,
    6: _q5_0,
    7: _q5_1,
    8: _q8_0,
    12: _q4_k,
    13: _q5_k,
}
