"""Writes the weights: some rows of a tensor at a time, so that memory stays small."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vllm_obtain.catalogue.convert.affine import to_affine
from vllm_obtain.catalogue.convert.halves import to_halves
from vllm_obtain.catalogue.convert.jobs import Job
from vllm_obtain.catalogue.convert.progress import Meter
from vllm_obtain.catalogue.convert.shards import Shards

_AT_ONCE: Final = 4 * 1024 * 1024  # values; some 100 MB with all that lies between


def write_weights(jobs: list[Job], shards: Shards, meter: Meter) -> None:
    """Convert all tensors.

    Args:
        jobs: what is to be done.
        shards: the files for it, open.
        meter: counts the bytes read.

    Raises:
        ConversionError: a number does not fit.
        OSError: a file can't be read or written.
    """
    for job in jobs:
        for first, rows in _pieces(job):
            if job.bits:
                parts = to_affine(rows, job.tensor.type_id, job.bits)
                for output, part in zip(job.outputs, parts, strict=True):
                    shards.write(output, first, np.ascontiguousarray(part).tobytes())
            else:
                (output,) = job.outputs
                shards.write(output, first, to_halves(rows, job.tensor.type_id, output.dtype))
            meter.add(rows.nbytes)


def source_rows(heads: int, count: int) -> NDArray[np.intp]:
    """For each row that Hugging Face wants, the row of the file that it is.

    llama.cpp rotates neighbouring rows of a head together, Hugging Face those half a head apart;
    `LlamaModel.permute` in convert_hf_to_gguf.py brought the halves together, this undoes it.

    Args:
        heads: over how many heads the rows are permuted, or 0.
        count: how many rows there are.
    """
    rows = np.arange(count, dtype=np.intp)
    if not heads:
        return rows
    return rows.reshape(heads, count // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _pieces(job: Job) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    tensor = job.tensor
    count = tensor.shape[0]
    raw = np.memmap(job.path, np.uint8, "r", tensor.offset, (count, job.read_bytes // count))
    order = source_rows(job.heads, count)
    step = max(1, _AT_ONCE // (tensor.shape[1] if len(tensor.shape) > 1 else 1))
    for first in range(0, count, step):
        # Taking rows by number copies them, so that nothing holds on to the mapped file.
        yield first, raw[order[first : first + step]]
