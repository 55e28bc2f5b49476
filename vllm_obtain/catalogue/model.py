"""A model on this machine's disk, as everything else here sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vllm_obtain.catalogue.gguf import GGUFHeader
from vllm_obtain.catalogue.kinds import Kind
from vllm_obtain.catalogue.projectors import Projector
from vllm_obtain.catalogue.sampling import Pairs

Format = Literal["gguf", "safetensors"]


@dataclass(frozen=True, slots=True)
class Model:
    """A model.

    Args:
        name: what clients call it.
        path: its GGUF file (the first part of a split one) or its safetensors folder.
        format: `gguf` or `safetensors`.
        size_bytes: bytes of all its files; of the duplicates in a folder, only those in use.
        revision: 12 hex digits that change when its files change.
        modified: when its newest file was last changed, seconds since 1970.
        architecture: as its files name it (`llama`, `LlamaForCausalLM`), or None.
        context_length: tokens it was trained for, or None.
        header: the facts of its GGUF file, or None.
        sampling: how its makers want it to draw, by the names in requests.
        base: the model that an adapter is for, when this is one with an adapter.
        adapter_revision: as `revision`, of the adapter; empty when there is none.
        kind: `chat`, or `embedding` for a model that turns texts into vectors.
        problem: why it can't be used, in one sentence without a subject, or None.
        sees: whether it takes images, on an engine that can.
        blind: why it takes none, in one sentence; empty when it does.
        projector: what lets a GGUF model see.
    """

    name: str
    path: Path
    format: Format
    size_bytes: int
    revision: str
    modified: int
    architecture: str | None = None
    context_length: int | None = None
    header: GGUFHeader | None = None
    sampling: Pairs = ()
    base: str | None = None
    adapter_revision: str = ""
    problem: str | None = None
    kind: Kind = "chat"
    sees: bool = False
    blind: str = ""
    projector: Projector | None = None
