"""A tiny model that can see, with random weights: a GGUF of the llama family and its projector.

It talks nonsense, but what it says depends on every pixel, which is all that tests need.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter

HIDDEN, INNER, HEADS, KV_HEADS, LAYERS = 64, 128, 4, 2, 2
IMAGE, PATCH = 32, 8
# Tokens that an image takes: one for each patch.
TOKENS = (IMAGE // PATCH) ** 2
# Of weights that are not scaled by their width. A token's own vector is small, so that what is said
# next is not the token again.
_SCALES = {"token_embd.weight": 0.2, "v.position_embd.weight": 1.0}
Shapes = dict[str, tuple[int, ...]]


def write_text_model(path: Path, source: Path, seed: int = 7, template: str | None = None) -> Path:
    """Write a GGUF model that has the vocabulary of another one.

    Args:
        path: the file; its folder is made.
        source: a GGUF file whose tokens are taken.
        seed: of the weights.
        template: its chat template; the source's when left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    count = 0
    for name, field in GGUFReader(source).fields.items():
        if not name.startswith("tokenizer."):
            continue
        value: Any = field.contents()
        if name == "tokenizer.ggml.tokens":
            count = len(value)
        if name == "tokenizer.chat_template" and template is not None:
            value = template
        writer.add_key_value(name, value, *field.types[:2])
    kv = HIDDEN // HEADS * KV_HEADS
    shapes: Shapes = {"token_embd.weight": (count, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}.weight": shape
            for name, shape in {
                "attn_norm": (HIDDEN,),
                "ffn_norm": (HIDDEN,),
                "attn_q": (HIDDEN, HIDDEN),
                "attn_k": (kv, HIDDEN),
                "attn_v": (kv, HIDDEN),
                "attn_output": (HIDDEN, HIDDEN),
                "ffn_gate": (INNER, HIDDEN),
                "ffn_up": (INNER, HIDDEN),
                "ffn_down": (HIDDEN, INNER),
            }.items()
        }
    return _write(writer, shapes, seed)


def write_projector(path: Path, seed: int = 8, hidden: int = HIDDEN) -> Path:
    """Write the projector of such a model: a small CLIP tower and LLaVA's two layers behind it.

    Args:
        path: the file.
        seed: of the weights.
        hidden: the width of the model that it is for.
    """
    writer = GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    for name, number in {
        "image_size": IMAGE,
        "patch_size": PATCH,
        "embedding_length": HIDDEN,
        "feed_forward_length": INNER,
        "block_count": LAYERS,
        "projection_dim": hidden,
        "attention.head_count": HEADS,
    }.items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    shapes: Shapes = {
        "v.patch_embd.weight": (HIDDEN, 3, PATCH, PATCH),
        "v.position_embd.weight": (TOKENS, HIDDEN),
        **_linear("mm.0", hidden, HIDDEN),
        **_linear("mm.2", hidden, hidden),
    }
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            shapes |= _linear(f"v.blk.{layer}.{name}", HIDDEN, HIDDEN)
        shapes |= _linear(f"v.blk.{layer}.ffn_up", INNER, HIDDEN)
        shapes |= _linear(f"v.blk.{layer}.ffn_down", HIDDEN, INNER)
        for name in ("ln1", "ln2"):
            shapes |= {f"v.blk.{layer}.{name}.{part}": (HIDDEN,) for part in ("weight", "bias")}
    return _write(writer, shapes, seed)


def png(width: int = 40, height: int = 40, seed: int | None = None) -> bytes:
    """A PNG image: green, or of random pixels when there is a seed."""
    if seed is None:
        rows = (b"\0" + b"\x00\xff\x00" * width) * height
    else:
        draw = np.random.default_rng(seed)
        pixels = draw.integers(0, 256, (height, width * 3), dtype=np.uint8)
        rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _write(writer: GGUFWriter, shapes: Shapes, seed: int) -> Path:
    draw = np.random.default_rng(seed)
    for name, shape in shapes.items():
        if len(shape) == 1:
            centre = 0.0 if name.endswith("bias") else 1.0
            values = centre + 0.1 * draw.standard_normal(shape)
        else:
            scale = _SCALES.get(name, shape[-1] ** -0.5)
            values = scale * draw.standard_normal(shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(writer.path)
