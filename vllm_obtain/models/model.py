"""A model on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vllm_obtain.models.generation_defaults import Pairs
from vllm_obtain.models.gguf.header import GGUFHeader
from vllm_obtain.models.kind import Kind
from vllm_obtain.models.mmproj import Projector

Format = Literal["gguf", "safetensors"]


@dataclass(frozen=True, slots=True)
class Model:
    """A model.

    Args:
        name: the name in requests.
        path: the GGUF file (the first part of a split one) or the safetensors folder.
        format: `gguf` or `safetensors`.
        size_bytes: bytes of all files; unused duplicate weights do not count.
        revision: 12 hex digits that change when the files change.
        modified: the modification time of the newest file, in seconds since 1970.
        architecture: the architecture in its files (`llama`, `LlamaForCausalLM`), or None.
        context_length: the trained context length in tokens, or None.
        header: the GGUF header, or None.
        sampling: the sampling parameters that its authors recommend, by their request names.
        base: the name of the base model, if this is a model with a LoRA adapter.
        adapter_revision: the revision of the LoRA adapter; empty without one.
        kind: `chat` or `embedding`.
        problem: why the model cannot be used, as a sentence without a capital and a period, or
            None.
        supports_images: whether it accepts images, on an engine that does.
        why_no_images: why it does not accept images, as one sentence; empty if it does.
        projector: the vision projector of a GGUF model.
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
    supports_images: bool = False
    why_no_images: str = ""
    projector: Projector | None = None
