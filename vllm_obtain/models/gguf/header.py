"""Reads the model properties in a GGUF header; safe for untrusted files, takes milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vllm_obtain.models import generation_defaults
from vllm_obtain.models.generation_defaults import Pairs
from vllm_obtain.models.gguf.layout import GGUFMetadata
from vllm_obtain.models.gguf.reader import GGUFError, HeaderReader
from vllm_obtain.models.gguf.tables import FILE_TYPES
from vllm_obtain.models.safe_open import opened

__all__ = ["GGUFError", "GGUFHeader", "check_part", "read_header"]


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """The model properties of a GGUF file; None where the file has no value.

    Args:
        architecture: such as `llama` or `qwen3`.
        name: the title of the model.
        kind: `general.type`: `model` (the default), `adapter`, `mmproj` or `imatrix`.
        context_length: the trained context length in tokens.
        block_count: the number of layers.
        embedding_length: the width of a hidden state.
        head_count: attention heads per layer (of the first layer that has any).
        head_count_kv: key/value heads per layer, or of each layer if they differ.
        key_length: the width of a key head, given or derived.
        value_length: the width of a value head, given or derived.
        file_type: the number of the quantization.
        quantisation: its name, such as `Q4_K_M`.
        tensor_count: tensors in this file, without the other parts of a split model.
        has_chat_template: whether the file has a chat template.
        vocab_size: tokens in the vocabulary.
        sampling: the recommended sampling parameters, by their request names.
        pooling: the pooling type; see `kind.py`.
    """

    architecture: str
    name: str | None
    kind: str
    context_length: int | None
    block_count: int | None
    embedding_length: int | None
    head_count: int | None
    head_count_kv: int | tuple[int, ...] | None
    key_length: int | None
    value_length: int | None
    file_type: int | None
    quantisation: str | None
    tensor_count: int
    has_chat_template: bool
    vocab_size: int | None
    sampling: Pairs = ()
    pooling: int | None = None

    def kv_bytes_per_token(self, bytes_per_value: float = 2) -> int | None:
        """Memory of one token in the KV cache.

        The sum over all layers of key/value heads * (key_length + value_length): the
        `n_embd_k_gqa + n_embd_v_gqa` by which llama.cpp sizes its cache (llama-kv-cache.cpp).
        An upper bound for models with sliding windows or layers without attention.

        Args:
            bytes_per_value: 2 for f16; 1.0625 for q8_0.

        Returns:
            Bytes, or None if the header lacks the values.
        """
        if self.key_length is None or self.value_length is None:
            return None
        heads = self.head_count_kv
        if isinstance(heads, tuple):
            total = sum(heads)
        elif heads is None or self.block_count is None:
            return None
        else:
            total = heads * self.block_count
        return int(total * (self.key_length + self.value_length) * bytes_per_value)


def read_header(path: Path) -> GGUFHeader:
    """Read a GGUF header and check that the file contains all its tensors.

    Args:
        path: the file, or the first part of a split one.

    Returns:
        The properties of the model.

    Raises:
        GGUFError: the file cannot be read, is damaged, or is not GGUF version 2 or 3.
    """
    try:
        with opened(path) as fd:
            return _header(GGUFMetadata(HeaderReader(fd)))
    except OSError as error:
        raise GGUFError(f"can't be read: {error.strerror or error}") from error


def check_part(path: Path) -> None:
    """Check that another part of a split model is complete.

    Args:
        path: the part, whose metadata may be empty.

    Raises:
        GGUFError: as in `read_header`.
    """
    try:
        with opened(path) as fd:
            GGUFMetadata(HeaderReader(fd))
    except OSError as error:
        raise GGUFError(f"can't be read: {error.strerror or error}") from error


def _header(layout: GGUFMetadata) -> GGUFHeader:
    architecture = layout.text("general.architecture")
    if not architecture:
        raise GGUFError("has no general.architecture")
    file_type = layout.number("general.file_type")
    embedding = layout.number(f"{architecture}.embedding_length")
    heads = layout.numbers(f"{architecture}.attention.head_count")
    head_count = next((n for n in heads if n), None) if isinstance(heads, tuple) else heads
    kv_heads = layout.numbers(f"{architecture}.attention.head_count_kv")
    derived = embedding // head_count if embedding and head_count else None
    key_length = layout.number(f"{architecture}.attention.key_length")
    value_length = layout.number(f"{architecture}.attention.value_length")
    return GGUFHeader(
        architecture=architecture,
        name=layout.text("general.name"),
        kind=layout.text("general.type") or "model",
        context_length=layout.number(f"{architecture}.context_length"),
        block_count=layout.number(f"{architecture}.block_count"),
        embedding_length=embedding,
        head_count=head_count,
        head_count_kv=heads if kv_heads is None else kv_heads,
        key_length=derived if key_length is None else key_length,
        value_length=derived if value_length is None else value_length,
        file_type=file_type,
        quantisation=None if file_type is None else FILE_TYPES.get(file_type),
        tensor_count=layout.tensor_count,
        has_chat_template=layout.has("tokenizer.chat_template"),
        vocab_size=layout.length("tokenizer.ggml.tokens"),
        sampling=generation_defaults.of_gguf(layout),
        pooling=layout.number(f"{architecture}.pooling_type"),
    )
