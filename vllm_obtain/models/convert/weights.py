"""Converts the weights some rows at a time, which limits the memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vllm_obtain.models.convert.float16 import to_16_bit
from vllm_obtain.models.convert.mlx_quantization import to_affine
from vllm_obtain.models.convert.progress import ConversionMeter
from vllm_obtain.models.convert.safetensors_writer import SafetensorsWriter
from vllm_obtain.models.convert.tensor_jobs import TensorJob

_CHUNK_VALUES: Final = 4 * 1024 * 1024  # about 100 MB with temporary arrays


def write_weights(jobs: list[TensorJob], shards: SafetensorsWriter, meter: ConversionMeter) -> None:
    """Convert all tensors.

    Args:
        jobs: the tensor jobs.
        shards: the open safetensors files.
        meter: counts the bytes read.

    Raises:
        ConversionError: a value is out of range for F16.
        OSError: a file cannot be read or written.
    """
    for job in jobs:
        for first, rows in _pieces(job):
            if job.bits:
                parts = to_affine(rows, job.tensor.type_id, job.bits)
                for output, part in zip(job.outputs, parts, strict=True):
                    shards.write(output, first, np.ascontiguousarray(part).tobytes())
            else:
                (output,) = job.outputs
                shards.write(output, first, to_16_bit(rows, job.tensor.type_id, output.dtype))
            meter.add(rows.nbytes)


def source_rows(heads: int, count: int) -> NDArray[np.intp]:
    """Return the row of the file for each row of the Hugging Face tensor.

    llama.cpp rotates adjacent rows of a head together, Hugging Face rows that are half a head
    apart. This inverts `LlamaModel.permute` of convert_hf_to_gguf.py.

    Args:
        heads: the number of heads of permuted rows; 0 if the rows are not permuted.
        count: number of rows.
    """
    rows = np.arange(count, dtype=np.intp)
    if not heads:
        return rows
    return rows.reshape(heads, count // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _pieces(job: TensorJob) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    tensor = job.tensor
    count = tensor.shape[0]
    raw = np.memmap(job.path, np.uint8, "r", tensor.offset, (count, job.read_bytes // count))
    order = source_rows(job.heads, count)
    step = max(1, _CHUNK_VALUES // (tensor.shape[1] if len(tensor.shape) > 1 else 1))
    for first in range(0, count, step):
        # Indexing copies the rows, so that no array refers to the mapped file.
        yield first, raw[order[first : first + step]]
