"""Writes safetensors files piece by piece: their layout is known before their content.

The safetensors package writes tensors that are all in memory. The format: the length of the
header in 8 bytes, the header as JSON with type, shape and place of each tensor, then their bytes
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vllm_obtain.catalogue.convert.jobs import ITEM_BYTES, Job, Output

MAX_SHARD: Final = 5 * 10**9  # bytes, as transformers has it


class Shards:
    """The safetensors files of a model, open for writing.

    Args:
        folder: where they are made.
        jobs: what goes into them.
        origin: their `format`: `mlx` or `pt`.
        limit: bytes after which a further file is begun; tensors of one job stay together.
    """

    def __init__(
        self, folder: Path, jobs: Sequence[Job], origin: str, limit: int = MAX_SHARD
    ) -> None:
        self._places: dict[str, tuple[int, int, Output]] = {}
        self._fds: list[int] = []
        self.files: dict[str, str] = {}
        groups = _split(jobs, limit)
        for number, outputs in enumerate(groups, 1):
            name = "model.safetensors"
            if len(groups) > 1:
                name = f"model-{number:05}-of-{len(groups):05}.safetensors"
            self._begin(folder / name, outputs, {"format": origin})

    def write(self, output: Output, row: int, content: bytes | memoryview) -> None:
        """Write rows of a tensor.

        Args:
            output: the tensor.
            row: the first of them.
            content: their bytes.
        """
        fd, start, _ = self._places[output.name]
        view, at = memoryview(content).cast("B"), start + row * output.row_bytes
        while view:
            written = os.pwrite(fd, view, at)
            view, at = view[written:], at + written

    def index(self) -> dict[str, object]:
        """The content of model.safetensors.index.json."""
        total = sum(output.size for _, _, output in self._places.values())
        return {"metadata": {"total_size": total}, "weight_map": self.files}

    def save(self) -> None:
        """Wait until all is on the disk."""
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

    def _begin(self, path: Path, outputs: list[Output], metadata: Mapping[str, str]) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._fds.append(fd)
        # The wider types first, as the safetensors package has it: all stay aligned.
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
            self._places[output.name] = (fd, at, output)
            self.files[output.name] = path.name
            at += output.size


def _split(jobs: Sequence[Job], limit: int) -> list[list[Output]]:
    groups: list[list[Output]] = []
    room = 0
    for job in jobs:
        size = sum(output.size for output in job.outputs)
        if not groups or size > room:
            groups.append([])
            room = limit
        groups[-1] += job.outputs
        room -= size
    return groups
