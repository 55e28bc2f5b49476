"""The numbers of a converted tensor against llama.cpp's own."""

from __future__ import annotations

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from tests.models.convert.models import blocks
from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.float16 import to_16_bit
from vllm_obtain.models.convert.mlx_quantization import pack, requantize, to_affine
from vllm_obtain.models.convert.tensor_jobs import EXACT, REQUANTIZED

BITS = {GGMLQuantizationType(number): bits for number, bits in (EXACT | REQUANTIZED).items()}
BLOCKWISE = [k for k in BITS if k.name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")]
ROWS, COLUMNS = 16, 512
ALL = pytest.mark.parametrize("kind", BITS, ids=lambda k: k.name)


def rows_of(kind: GGMLQuantizationType) -> np.ndarray:
    return np.asarray(blocks(kind, (ROWS, COLUMNS), np.random.default_rng(7)))


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Read MLX's stream of bits the slow way: value n begins at bit n times the width."""
    found = []
    for row in packed:
        stream = int.from_bytes(row.astype("<u4").tobytes(), "little")
        found.append([stream >> (bits * n) & ((1 << bits) - 1) for n in range(COLUMNS)])
    return np.array(found, np.float32)


def values(kind: GGMLQuantizationType) -> np.ndarray:
    """What MLX makes of it: scale * q + bias, here without rounding in between."""
    bits = BITS[kind]
    packed, scales, biases = to_affine(rows_of(kind), kind.value, bits)
    assert packed.shape == (ROWS, COLUMNS * bits // 32)
    assert scales.dtype == biases.dtype == np.float16
    wide = (np.repeat(part.astype(np.float32), 32, axis=1) for part in (scales, biases))
    scale, bias = wide
    return unpack(packed, bits) * scale + bias


def error(kind: GGMLQuantizationType) -> tuple[float, float]:
    """The largest error by the largest number, and the mean square error by the mean square."""
    wanted = dequantize(rows_of(kind), kind)
    difference = values(kind) - wanted
    return (
        float(np.abs(difference).max() / np.abs(wanted).max()),
        float(np.sqrt((difference**2).mean() / (wanted**2).mean())),
    )


@pytest.mark.parametrize("kind", BLOCKWISE, ids=lambda k: k.name)
def test_plain_types_stay_as_they_are_bit_for_bit(kind: GGMLQuantizationType) -> None:
    np.testing.assert_array_equal(values(kind), dequantize(rows_of(kind), kind))


# The bounds are what was measured on random blocks, with a little room; those of random blocks
# are worse than a model's, whose neighbouring groups are alike.
BOUNDS = {
    "Q2_K": (0.1, 0.1),
    "Q3_K": (0.13, 0.13),
    "Q4_K": (0.001, 0.001),
    "Q5_K": (0.001, 0.001),
    "Q6_K": (0.02, 0.02),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_the_error_of_the_other_types_is_bounded(name: str) -> None:
    largest, mean = error(GGMLQuantizationType[name])
    print(f"{name}: largest error {largest:.5f}, mean {mean:.5f}")
    assert largest < BOUNDS[name][0]
    assert mean < BOUNDS[name][1]


@ALL
def test_mlx_reads_what_we_pack(kind: GGMLQuantizationType) -> None:
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    parts = to_affine(rows_of(kind), kind.value, BITS[kind])
    read = mx.dequantize(*(mx.array(part) for part in parts), group_size=32, bits=BITS[kind])
    # MLX rounds to F16 on the way.
    np.testing.assert_allclose(np.array(read), values(kind), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_packing_is_one_stream_of_bits(bits: int) -> None:
    q = np.random.default_rng(1).integers(0, 1 << bits, (3, COLUMNS), dtype=np.uint8)
    packed = pack(q.reshape(-1, 32), bits).reshape(3, -1).view(np.uint32)
    np.testing.assert_array_equal(unpack(packed, bits), q)


def test_groups_of_one_number_stay_that_number() -> None:
    q, scales, biases = requantize(np.full((1, 64), 0.5, np.float32), 4)
    assert not q.any() and not scales.any()
    np.testing.assert_array_equal(biases, np.full((2, 1), 0.5, np.float16))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q6_K"])
def test_sixteen_bits_are_the_nearest(name: str, dtype: str) -> None:
    kind = GGMLQuantizationType[name]
    raw = rows_of(kind)
    raw = raw.view(np.uint8) if raw.dtype != np.uint8 else raw
    made = np.frombuffer(to_16_bit(raw, kind.value, dtype), np.uint16)
    wanted = dequantize(raw, kind).reshape(-1)
    if dtype == "F16":
        np.testing.assert_array_equal(made, wanted.astype(np.float16).view(np.uint16))
    else:
        read = (made.astype(np.uint32) << 16).view(np.float32)
        assert np.abs(read - wanted).max() <= np.abs(wanted).max() * 2**-8
        assert np.all(np.abs(read - wanted) <= np.abs(wanted) * 2**-8)


def test_numbers_beyond_sixteen_bits_are_refused() -> None:
    raw = np.full((1, 32), 1e6, np.float32).view(np.uint8)
    with pytest.raises(ConversionError, match="out of range for F16"):
        to_16_bit(raw, 0, "F16")
