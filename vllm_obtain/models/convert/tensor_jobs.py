"""Lists the tensors to write for each tensor of the source."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from vllm_obtain.models.convert.architectures import (
    ArchitectureSizes,
    TensorMapping,
    tensor_mappings,
)
from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.gguf_source import GGUFSource
from vllm_obtain.models.convert.rope import ROPE_FREQS
from vllm_obtain.models.gguf.layout import Tensor
from vllm_obtain.models.gguf.tables import TENSOR_BLOCKS

Target = Literal["mlx", "hf", "gguf"]

GROUP: Final = 32  # values per scale and bias; the block size of ggml's basic types
ITEM_BYTES: Final = {"F16": 2, "BF16": 2, "U32": 4}
F32, F16, BF16 = 0, 1, 30

# ggml type: bits per value. The types in EXACT are affine in groups of 32.
EXACT: Final = {2: 4, 3: 4, 6: 5, 7: 5, 8: 8, 12: 4, 13: 5}  # Q4_0/1, Q5_0/1, Q8_0, Q4_K, Q5_K
# Q2_K, Q3_K and Q6_K (2.6, 3.4 and 6.6 bits per value) have groups of 16.
REQUANTIZED: Final = {10: 3, 11: 3, 14: 6}
# All types that gguf-py can dequantize: the above, floats, IQ*, TQ*, MXFP4.
READABLE: Final = frozenset({F32, F16, BF16, *EXACT, *REQUANTIZED, *range(16, 24), 29, 34, 35, 39})


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor in a safetensors file.

    Args:
        name: the tensor's name.
        dtype: a key of ITEM_BYTES.
        shape: rows first.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, or of one value of a vector."""
        return math.prod(self.shape[1:]) * ITEM_BYTES[self.dtype]

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.shape[0] * self.row_bytes


@dataclass(frozen=True, slots=True)
class TensorJob:
    """The conversion of one tensor.

    Args:
        path: the file that contains the tensor.
        tensor: the location and type of the tensor.
        heads: as in `TensorMapping`.
        bits: bits per value of the affine quantization; 0 for 16-bit floats.
        outputs: weight, scales and biases, or one 16-bit tensor.
    """

    path: Path
    tensor: Tensor
    heads: int
    bits: int
    outputs: tuple[Output, ...]

    @property
    def read_bytes(self) -> int:
        """Bytes of the tensor in the source."""
        elements, size = TENSOR_BLOCKS[self.tensor.type_id]
        return math.prod(self.tensor.shape) // elements * size


def jobs_for(source: GGUFSource, sizes: ArchitectureSizes, target: Target) -> list[TensorJob]:
    """List the tensor jobs of a model.

    Raises:
        ConversionError: a tensor is missing or unknown, or has an unexpected type or shape.
    """
    known = tensor_mappings(source.architecture, sizes)
    for name, mapping in known.items():
        if not mapping.optional and name not in source.tensors:
            raise ConversionError(
                f"{source.path.name} has no tensor {name}. Download the model again."
            )
    for name, (_, tensor) in source.tensors.items():
        _check(tensor, known.get(name))
    weights = {name: each for name, each in source.tensors.items() if name != ROPE_FREQS}
    dtype = _dtype([tensor for _, tensor in weights.values()], target)
    return [
        _job(path, tensor, known[name], target, dtype) for name, (path, tensor) in weights.items()
    ]


def _check(tensor: Tensor, mapping: TensorMapping | None) -> None:
    if mapping is None:
        raise ConversionError(
            f"The tensor {tensor.name} is not supported in this model family. Use llama.cpp."
        )
    if tensor.type_id not in READABLE:
        raise ConversionError(
            f"{tensor.name} has the ggml type {tensor.type_id}, which cannot be converted. "
            "Use llama.cpp."
        )
    if tensor.shape != mapping.shape:
        raise ConversionError(
            f"{tensor.name} has the shape {tensor.shape} instead of {mapping.shape}. "
            "Download the model again."
        )


def _dtype(tensors: list[Tensor], target: Target) -> str:
    """Choose the 16-bit type of a model.

    MLX computes in the type of the scales, which is F16 in GGUF. Other models use BF16: the
    families were trained in it, and activations of qwen2 exceed the range of F16. F16 weights are
    not converted.
    """
    types = Counter(tensor.type_id for tensor in tensors if len(tensor.shape) > 1)
    if target == "mlx" and (types.keys() & (EXACT.keys() | REQUANTIZED.keys())):
        return "F16"
    return "F16" if types[F16] and types.keys() <= {F16, F32} else "BF16"


def _job(
    path: Path, tensor: Tensor, mapping: TensorMapping, target: Target, dtype: str
) -> TensorJob:
    bits = 0
    if target == "mlx" and len(tensor.shape) > 1:
        bits = EXACT.get(tensor.type_id) or REQUANTIZED.get(tensor.type_id) or 0
    if not bits:
        output = Output(mapping.name, dtype, tensor.shape)
        return TensorJob(path, tensor, mapping.heads, bits, (output,))
    rows, columns = tensor.shape
    module = mapping.name.removesuffix(".weight")
    outputs = (
        Output(mapping.name, "U32", (rows, columns * bits // 32)),
        Output(f"{module}.scales", "F16", (rows, columns // GROUP)),
        Output(f"{module}.biases", "F16", (rows, columns // GROUP)),
    )
    return TensorJob(path, tensor, mapping.heads, bits, outputs)
