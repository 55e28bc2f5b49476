"""Writes a BERT as a GGUF file, as llama.cpp reads it.

Source: `BertModel` in llama.cpp's convert_hf_to_gguf.py, and its tensor names in gguf-py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from vllm_obtain.catalogue.convert.encoder import Encoder, words
from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.convert.progress import Meter

_F32, _MOSTLY_F16 = 0, 1
_NORMAL, _UNKNOWN, _CONTROL, _UNUSED = 1, 2, 3, 5
_MARKS: Final = {"[UNK]": "unknown", "[SEP]": "seperator", "[PAD]": "padding", "[CLS]": "cls"}
_WORD_START: Final = "\N{LOWER ONE EIGHTH BLOCK}"
_OUTSIDE: Final = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_INSIDE: Final = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)", re.ASCII)
_NUMPY: Final = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
# What stays as floats of 32 bits, beside all that is no matrix.
_WIDE: Final = ("position_embd.weight", "token_types.weight")


def write_gguf(encoder: Encoder, files: list[Path], target: Path, meter: Meter) -> None:
    """Write the file.

    Args:
        encoder: what it is.
        files: its safetensors files.
        target: the file to make.
        meter: counts the bytes read.

    Raises:
        ConversionError: a tensor is missing, unknown, or holds numbers too large for 16 bits.
        OSError: a file can't be read or written.
    """
    writer = GGUFWriter(target, "bert")
    try:
        _describe(writer, encoder)
        meter.stage("tokenizer")
        _write_words(writer, words(encoder.folder))
        meter.stage("weights")
        wanted = _wanted(encoder.layers)
        for path in files:
            for name, values in _tensors(path):
                meter.add(values.nbytes)
                if (place := _place(name)) is not None and place in wanted:
                    wanted.remove(place)
                    writer.add_tensor(place, _narrow(place, values))
        if wanted:
            raise ConversionError(f"{encoder.folder.name} lacks the tensor for {min(wanted)}.")
        meter.stage("saving")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _describe(writer: GGUFWriter, encoder: Encoder) -> None:
    writer.add_name(encoder.folder.name)
    writer.add_block_count(encoder.layers)
    # The width of the table of positions, whatever shorter texts it was trained for.
    writer.add_context_length(encoder.positions)
    writer.add_embedding_length(encoder.hidden)
    writer.add_feed_forward_length(encoder.inner)
    writer.add_head_count(encoder.heads)
    writer.add_layer_norm_eps(encoder.epsilon)
    writer.add_causal_attention(False)
    writer.add_uint32("bert.pooling_type", encoder.pooling)
    writer.add_token_type_count(encoder.types)
    writer.add_file_type(_MOSTLY_F16)


def _write_words(writer: GGUFWriter, tokens: list[str]) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_spelled(token) for token in tokens])
    writer.add_token_types([_kind(token) for token in tokens])
    ids = {token: number for number, token in enumerate(tokens)}
    for token, name in _MARKS.items():
        if token not in ids:
            raise ConversionError(f"The tokenizer has no {token}.")
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", ids[token])
    writer.add_uint32("tokenizer.ggml.bos_token_id", ids["[CLS]"])
    writer.add_uint32("tokenizer.ggml.eos_token_id", ids["[SEP]"])
    if "[MASK]" in ids:
        writer.add_uint32("tokenizer.ggml.mask_token_id", ids["[MASK]"])


def _spelled(token: str) -> str:
    """Mark where words begin, as llama.cpp does, and not where they go on, as WordPiece does."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else _WORD_START + token


def _kind(token: str) -> int:
    if token == "[UNK]":  # noqa: S105 - a token of a tokenizer
        return _UNKNOWN
    if token.startswith("[unused"):
        return _UNUSED
    return _CONTROL if token in ("[CLS]", "[SEP]", "[PAD]", "[MASK]") else _NORMAL


def _wanted(layers: int) -> set[str]:
    outside = {"token_embd.weight", *_WIDE, "token_embd_norm.weight", "token_embd_norm.bias"}
    inside = {
        f"blk.{layer}.{name}.{part}"
        for layer in range(layers)
        for name in _INSIDE.values()
        for part in ("weight", "bias")
    }
    return outside | inside


def _place(name: str) -> str | None:
    """GGUF's name of a tensor; None for what an encoder does not need, such as its pooler."""
    name = name.removeprefix("bert.")
    module, _, part = name.rpartition(".")
    part = {"gamma": "weight", "beta": "bias"}.get(part, part)
    if found := _LAYER.fullmatch(module):
        known = _INSIDE.get(found[2])
        return f"blk.{found[1]}.{known}.{part}" if known else None
    known = _OUTSIDE.get(module)
    return f"{known}.{part}" if known else None


def _narrow(place: str, values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim < 2 or place in _WIDE:
        return values.astype(np.float32)
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise ConversionError(f"{place} has numbers that are too large for 16 bits (F16).")
    return halves


def _tensors(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    for name, tensor in header.items():
        if name == "__metadata__" or tensor["dtype"] not in _NUMPY:
            continue
        shape, (start, _) = tuple(tensor["shape"]), tensor["data_offsets"]
        kind = _NUMPY[tensor["dtype"]]
        if not math.prod(shape):
            continue
        raw = np.memmap(path, kind, "r", 8 + length + start, shape or (1,))
        yield name, _floats(raw) if tensor["dtype"] == "BF16" else np.asarray(raw)


def _floats(halves: NDArray[Any]) -> NDArray[Any]:
    """Numbers of bfloat16 are the upper halves of floats of 32 bits."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
