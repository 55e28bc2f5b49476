"""What is to be written: for each tensor of the source, the tensors that it becomes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.convert.family import Place, Sizes, places
from vllm_obtain.catalogue.convert.rope import ROPE_FREQS
from vllm_obtain.catalogue.convert.source import Source
from vllm_obtain.catalogue.gguf_layout import Tensor
from vllm_obtain.catalogue.gguf_types import TENSOR_BLOCKS

Target = Literal["mlx", "hf", "gguf"]

GROUP: Final = 32  # values that share a scale and a bias; a block of ggml's plain types
ITEM_BYTES: Final = {"F16": 2, "BF16": 2, "U32": 4}
F32, F16, BF16 = 0, 1, 30

# ggml type: bits of the affine form. Those of EXACT are affine in groups of 32 already.
EXACT: Final = {2: 4, 3: 4, 6: 5, 7: 5, 8: 8, 12: 4, 13: 5}  # Q4_0/1, Q5_0/1, Q8_0, Q4_K, Q5_K
# Q2_K, Q3_K, Q6_K have groups of 16: the width nearest to their 2.6, 3.4 and 6.6 bits a value.
REQUANTISED: Final = {10: 3, 11: 3, 14: 6}
# All that gguf-py can turn into numbers: the above, the plain ones, IQ*, TQ*, MXFP4.
READABLE: Final = frozenset({F32, F16, BF16, *EXACT, *REQUANTISED, *range(16, 24), 29, 34, 35, 39})


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor in a safetensors file.

    Args:
        name: its name there.
        dtype: a key of ITEM_BYTES.
        shape: rows first.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; of one value if it has one dimension."""
        return math.prod(self.shape[1:]) * ITEM_BYTES[self.dtype]

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return self.shape[0] * self.row_bytes


@dataclass(frozen=True, slots=True)
class Job:
    """A tensor of the source and what it becomes.

    Args:
        path: the file that holds it.
        tensor: where it is.
        heads: over how many heads its rows are permuted, or 0.
        bits: width of the affine form, or 0 for 16-bit numbers.
        outputs: weight, scales and biases, or one 16-bit tensor.
    """

    path: Path
    tensor: Tensor
    heads: int
    bits: int
    outputs: tuple[Output, ...]

    @property
    def read_bytes(self) -> int:
        """Bytes that it takes in the source."""
        elements, size = TENSOR_BLOCKS[self.tensor.type_id]
        return math.prod(self.tensor.shape) // elements * size


def jobs_for(source: Source, sizes: Sizes, target: Target) -> list[Job]:
    """List what has to be done.

    Raises:
        ConversionError: a tensor is missing, unknown, of an unknown type or of another shape.
    """
    known = places(source.architecture, sizes)
    for name, place in known.items():
        if not place.optional and name not in source.tensors:
            raise ConversionError(f"{source.path.name} lacks the tensor {name}.")
    for name, (_, tensor) in source.tensors.items():
        _check(tensor, known.get(name))
    kept = {name: each for name, each in source.tensors.items() if name != ROPE_FREQS}
    dtype = _dtype([tensor for _, tensor in kept.values()], target)
    return [_job(path, tensor, known[name], target, dtype) for name, (path, tensor) in kept.items()]


def _check(tensor: Tensor, place: Place | None) -> None:
    if place is None:
        raise ConversionError(
            f"The tensor {tensor.name} is unknown in this family, so the model can't be converted."
        )
    if tensor.type_id not in READABLE:
        raise ConversionError(
            f"{tensor.name} is of ggml's type {tensor.type_id}, which can't be converted."
        )
    if tensor.shape != place.shape:
        raise ConversionError(f"{tensor.name} has the shape {tensor.shape}, not {place.shape}.")


def _dtype(tensors: list[Tensor], target: Target) -> str:
    """The one 16-bit type of a model.

    MLX computes in the type of the scales, and those of GGUF are F16. Elsewhere bfloat16: the
    families were trained in it, and qwen2's activations leave the range of F16. A source in F16
    stays as it is.
    """
    types = Counter(tensor.type_id for tensor in tensors if len(tensor.shape) > 1)
    if target == "mlx" and (types.keys() & (EXACT.keys() | REQUANTISED.keys())):
        return "F16"
    return "F16" if types[F16] and types.keys() <= {F16, F32} else "BF16"


def _job(path: Path, tensor: Tensor, place: Place, target: Target, dtype: str) -> Job:
    bits = 0
    if target == "mlx" and len(tensor.shape) > 1:
        bits = EXACT.get(tensor.type_id) or REQUANTISED.get(tensor.type_id) or 0
    if not bits:
        output = Output(place.name, dtype, tensor.shape)
        return Job(path, tensor, place.heads, bits, (output,))
    rows, columns = tensor.shape
    module = place.name.removesuffix(".weight")
    outputs = (
        Output(place.name, "U32", (rows, columns * bits // 32)),
        Output(f"{module}.scales", "F16", (rows, columns // GROUP)),
        Output(f"{module}.biases", "F16", (rows, columns // GROUP)),
    )
    return Job(path, tensor, place.heads, bits, outputs)
