"""What the header of a GGUF file says about its model. Safe on any file, in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vllm_obtain.catalogue import sampling
from vllm_obtain.catalogue.files import opened
from vllm_obtain.catalogue.gguf_cursor import Cursor, GGUFError
from vllm_obtain.catalogue.gguf_layout import Layout
from vllm_obtain.catalogue.gguf_types import FILE_TYPES
from vllm_obtain.catalogue.sampling import Pairs

__all__ = ["GGUFError", "GGUFHeader", "check_part", "read_header"]


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """The facts of a model that its GGUF file carries; None where the file doesn't say.

    Args:
        architecture: such as `llama` or `qwen3`.
        name: the title that its makers gave it.
        kind: `general.type`: `model` (also when not given), `adapter`, `mmproj` or `imatrix`.
        context_length: tokens that it was trained for.
        block_count: layers.
        embedding_length: width of a hidden state.
        head_count: attention heads of a layer (the first that has any).
        head_count_kv: key and value heads of a layer, or of each one where they differ.
        key_length: width of a key head, given or derived.
        value_length: width of a value head, given or derived.
        file_type: number of the quantisation.
        quantisation: its name, such as `Q4_K_M`.
        tensor_count: tensors in this file; a split model has more in its other parts.
        has_chat_template: whether it knows how to write a conversation as a prompt.
        vocab_size: tokens in its vocabulary.
        sampling: how its makers want it to draw, by our names.
        pooling: how it makes one vector of a text (`kinds.py` has the numbers).
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
        """Memory that one token takes in the key-value cache.

        For every layer, its key and value heads times (key_length + value_length) values: the
        `n_embd_k_gqa + n_embd_v_gqa` by which llama.cpp sizes its cache (llama-kv-cache.cpp).
        It is an upper bound for models with sliding windows or layers without attention.

        Args:
            bytes_per_value: 2 for f16; 1.0625 for q8_0.

        Returns:
            Bytes, or None when the header doesn't say enough.
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
    """Read the header of a model's GGUF file, and check that all its tensors are there.

    Args:
        path: the file, or the first part of a split one.

    Returns:
        What it says about the model.

    Raises:
        GGUFError: it can't be read, is no GGUF file of version 2 or 3, or is damaged.
    """
    try:
        with opened(path) as fd:
            return _header(Layout(Cursor(fd)))
    except OSError as error:
        raise GGUFError(f"can't be read: {error.strerror or error}") from error


def check_part(path: Path) -> None:
    """Check that a further part of a split model is whole.

    Args:
        path: the part; it need not say anything about the model.

    Raises:
        GGUFError: as `read_header`.
    """
    try:
        with opened(path) as fd:
            Layout(Cursor(fd))
    except OSError as error:
        raise GGUFError(f"can't be read: {error.strerror or error}") from error


def _header(layout: Layout) -> GGUFHeader:
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
        sampling=sampling.of_gguf(layout),
        pooling=layout.number(f"{architecture}.pooling_type"),
    )
