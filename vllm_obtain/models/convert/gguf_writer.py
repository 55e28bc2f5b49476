"""Writes a BERT model as a GGUF file.

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

from vllm_obtain.models.convert.bert_source import Encoder, read_tokens
from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.progress import ConversionMeter

_F32, _MOSTLY_F16 = 0, 1
_NORMAL, _UNKNOWN, _CONTROL, _UNUSED = 1, 2, 3, 5
_SPECIAL_TOKENS: Final = {
    "[UNK]": "unknown",
    "[SEP]": "seperator",
    "[PAD]": "padding",
    "[CLS]": "cls",
}
_WORD_START: Final = "\N{LOWER ONE EIGHTH BLOCK}"
_MODEL_TENSORS: Final = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER_TENSORS: Final = {
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
# Matrices that stay in F32, like all vectors.
_F32_MATRICES: Final = ("position_embd.weight", "token_types.weight")


def write_gguf(encoder: Encoder, files: list[Path], target: Path, meter: ConversionMeter) -> None:
    """Write the GGUF file.

    Args:
        encoder: the model.
        files: the model's safetensors files.
        target: the path of the GGUF file.
        meter: counts the bytes read.

    Raises:
        ConversionError: a tensor is missing, or has values that are out of range for F16.
        OSError: a file cannot be read or written.
    """
    writer = GGUFWriter(target, "bert")
    try:
        _describe(writer, encoder)
        meter.stage("tokenizer")
        _write_vocabulary(writer, read_tokens(encoder.folder))
        meter.stage("weights")
        missing = _tensor_names(encoder.layers)
        for path in files:
            for name, values in _tensors(path):
                meter.add(values.nbytes)
                if (gguf_name := _gguf_name(name)) is not None and gguf_name in missing:
                    missing.remove(gguf_name)
                    writer.add_tensor(gguf_name, _convert(gguf_name, values))
        if missing:
            raise ConversionError(
                f"{encoder.folder.name} has no tensor for {min(missing)}. Download the model again."
            )
        meter.stage("saving")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _describe(writer: GGUFWriter, encoder: Encoder) -> None:
    writer.add_name(encoder.folder.name)
    writer.add_block_count(encoder.layers)
    # The size of the position table, although the model may be trained for shorter texts.
    writer.add_context_length(encoder.positions)
    writer.add_embedding_length(encoder.hidden)
    writer.add_feed_forward_length(encoder.inner)
    writer.add_head_count(encoder.heads)
    writer.add_layer_norm_eps(encoder.epsilon)
    writer.add_causal_attention(False)
    writer.add_uint32("bert.pooling_type", encoder.pooling)
    writer.add_token_type_count(encoder.types)
    writer.add_file_type(_MOSTLY_F16)


def _write_vocabulary(writer: GGUFWriter, tokens: list[str]) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_spelling(token) for token in tokens])
    writer.add_token_types([_kind(token) for token in tokens])
    ids = {token: number for number, token in enumerate(tokens)}
    for token, name in _SPECIAL_TOKENS.items():
        if token not in ids:
            raise ConversionError(f"The tokenizer has no {token}. llama.cpp requires it.")
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", ids[token])
    writer.add_uint32("tokenizer.ggml.bos_token_id", ids["[CLS]"])
    writer.add_uint32("tokenizer.ggml.eos_token_id", ids["[SEP]"])
    if "[MASK]" in ids:
        writer.add_uint32("tokenizer.ggml.mask_token_id", ids["[MASK]"])


def _spelling(token: str) -> str:
    """Mark word starts as llama.cpp does; WordPiece marks continuations."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else _WORD_START + token


def _kind(token: str) -> int:
    if token == "[UNK]":  # noqa: S105 - a token of a tokenizer
        return _UNKNOWN
    if token.startswith("[unused"):
        return _UNUSED
    return _CONTROL if token in ("[CLS]", "[SEP]", "[PAD]", "[MASK]") else _NORMAL


def _tensor_names(layers: int) -> set[str]:
    model_names = {
        "token_embd.weight",
        *_F32_MATRICES,
        "token_embd_norm.weight",
        "token_embd_norm.bias",
    }
    layer_names = {
        f"blk.{layer}.{name}.{part}"
        for layer in range(layers)
        for name in _LAYER_TENSORS.values()
        for part in ("weight", "bias")
    }
    return model_names | layer_names


def _gguf_name(name: str) -> str | None:
    """Return the GGUF name of a tensor; None if GGUF has none, such as for the pooler."""
    name = name.removeprefix("bert.")
    module, _, part = name.rpartition(".")
    part = {"gamma": "weight", "beta": "bias"}.get(part, part)
    if match := _LAYER.fullmatch(module):
        known = _LAYER_TENSORS.get(match[2])
        return f"blk.{match[1]}.{known}.{part}" if known else None
    known = _MODEL_TENSORS.get(module)
    return f"{known}.{part}" if known else None


def _convert(name: str, values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim < 2 or name in _F32_MATRICES:
        return values.astype(np.float32)
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise ConversionError(
            f"{name} has values that are out of range for F16. Use another engine."
        )
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
    """Convert bfloat16 to float32: its bits are the upper 16 bits of a float32."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
