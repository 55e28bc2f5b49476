"""Writes tiny GGUF files: valid ones, and the pieces that hostile ones are made of."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TENSOR_BYTES = 128  # 32 values of F32

TINY: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "general.type": "model",
    "general.file_type": 0,
    "llama.block_count": 2,
    "llama.context_length": 512,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["<s>", "a", "b"],
    "tokenizer.ggml.scores": [0.0, -1.0, -2.0],
    "tokenizer.chat_template": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "<|im_end|>\n{% endfor %}"
    ),
}


def write_gguf(path: Path, metadata: Mapping[str, Any] | None = None, tensors: int = 0) -> Path:
    """Write a valid GGUF file, making its folders.

    Args:
        path: the file.
        metadata: values over those of TINY; None as a value leaves the key out.
        tensors: how many tensors it holds, of TENSOR_BYTES each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf_bytes(metadata, tensors))
    return path


def gguf_bytes(metadata: Mapping[str, Any] | None = None, tensors: int = 0) -> bytes:
    pairs = {k: v for k, v in {**TINY, **(metadata or {})}.items() if v is not None}
    body = b"".join(text(key) + value(each) for key, each in pairs.items())
    body += b"".join(tensor(f"t{n}", [32], 0, n * TENSOR_BYTES) for n in range(tensors))
    content = start(tensors, len(pairs)) + body
    if tensors:
        content += bytes(-len(content) % 32) + bytes(tensors * TENSOR_BYTES)
    return content


def start(tensors: int, pairs: int, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, pairs)


def tensor(name: str, shape: list[int], type_id: int, offset: int) -> bytes:
    return (
        text(name)
        + struct.pack("<I", len(shape))
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", type_id, offset)
    )


def text(content: str) -> bytes:
    raw = content.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(content: Any) -> bytes:
    """A typed value; whole numbers are stored as u32 if they fit, lists by their first element."""
    if isinstance(content, list):
        type_id = kind(content[0]) if content else 4
        return struct.pack("<IIQ", 9, type_id, len(content)) + b"".join(map(bare, content))
    return struct.pack("<I", kind(content)) + bare(content)


def kind(content: Any) -> int:
    if isinstance(content, bool):
        return 7
    if isinstance(content, int):
        return 4 if 0 <= content < 2**32 else 11
    return 6 if isinstance(content, float) else 8


def bare(content: Any) -> bytes:
    codes = {4: "<I", 6: "<f", 7: "<?", 11: "<q"}
    return text(content) if isinstance(content, str) else struct.pack(codes[kind(content)], content)
