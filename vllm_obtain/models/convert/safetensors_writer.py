"""Writes safetensors files incrementally; the layout is computed first.

The safetensors package requires all tensors in memory. The format: the length of the header in 8
bytes, the header as JSON with type, shape and offsets of each tensor, then the tensors' bytes
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vllm_obtain.models.convert.tensor_jobs import ITEM_BYTES, Output, TensorJob

MAX_SHARD: Final = 5 * 10**9  # bytes; the default of transformers


class SafetensorsWriter:
    """The safetensors files of a model, open for writing.

    Args:
        folder: the folder for the files.
        jobs: the tensor jobs.
        origin: the `format` in the metadata, `mlx` or `pt`.
        limit: maximum bytes per file; the tensors of one job are never split.
    """

    def __init__(
        self, folder: Path, jobs: Sequence[TensorJob], origin: str, limit: int = MAX_SHARD
    ) -> None:
        self._locations: dict[str, tuple[int, int, Output]] = {}
        self._fds: list[int] = []
        self.files: dict[str, str] = {}
        groups = _split(jobs, limit)
        for number, outputs in enumerate(groups, 1):
            name = "model.safetensors"
            if len(groups) > 1:
                name = f"model-{number:05}-of-{len(groups):05}.safetensors"
            self._create(folder / name, outputs, {"format": origin})

    def write(self, output: Output, row: int, content: bytes | memoryview) -> None:
        """Write rows of a tensor.

        Args:
            output: the tensor.
            row: index of the first row.
            content: the bytes of the rows.
        """
        fd, start, _ = self._locations[output.name]
        view, at = memoryview(content).cast("B"), start + row * output.row_bytes
        while view:
            written = os.pwrite(fd, view, at)
            view, at = view[written:], at + written

    def index(self) -> dict[str, object]:
        """Build model.safetensors.index.json."""
        total = sum(output.size for _, _, output in self._locations.values())
        return {"metadata": {"total_size": total}, "weight_map": self.files}

    def save(self) -> None:
        """Sync the files to the disk."""
        for fd in self._fds:
            os.fsync(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _create(self, path: Path, outputs: list[Output], metadata: Mapping[str, str]) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._fds.append(fd)
        # Wider types first, like the safetensors package, so that all tensors are aligned.
        outputs = sorted(outputs, key=lambda each: (-ITEM_BYTES[each.dtype], each.name))
        header: dict[str, object] = {"__metadata__": metadata}
        end = 0
        for output in outputs:
            start, end = end, end + output.size
            header[output.name] = {
                "dtype": output.dtype,
                "shape": output.shape,
                "data_offsets": (start, end),
            }
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        os.pwrite(fd, len(raw).to_bytes(8, "little") + raw, 0)
        os.ftruncate(fd, 8 + len(raw) + end)
        at = 8 + len(raw)
        for output in outputs:
            self._locations[output.name] = (fd, at, output)
            self.files[output.name] = path.name
            at += output.size


def _split(jobs: Sequence[TensorJob], limit: int) -> list[list[Output]]:
    groups: list[list[Output]] = []
    remaining = 0
    for job in jobs:
        size = sum(output.size for output in job.outputs)
        if not groups or size > remaining:
            groups.append([])
            remaining = limit
        groups[-1] += job.outputs
        remaining -= size
    return groups
