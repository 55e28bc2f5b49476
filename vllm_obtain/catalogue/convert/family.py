"""The families that can be converted: their sizes, and which tensors they are made of."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final

from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.convert.rope import ROPE_FREQS
from vllm_obtain.catalogue.convert.source import Source

# GGUF architecture: the class of its config.json, which also is what mlx-lm and vLLM know it by.
CLASSES: Final = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_BIASES: Final = {"llama": "qkvo", "qwen2": "qkv", "qwen3": ""}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers that give a model its shape."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor goes.

    Args:
        name: its Hugging Face name.
        shape: the shape it must have.
        heads: over how many heads its rows are permuted, or 0.
        optional: whether a model may be without it.
    """

    name: str
    shape: tuple[int, ...]
    heads: int = 0
    optional: bool = False


def read_sizes(source: Source) -> Sizes:
    """Read the sizes of a model.

    Raises:
        ConversionError: it is of another family, or a variant with other tensors.
    """
    family = source.architecture
    if family not in CLASSES:
        known = ", ".join(CLASSES)
        raise ConversionError(
            f"A model of the family {family} can't be converted, only {known}; use llama.cpp."
        )
    if source.has("expert_count") and source.hyper("expert_count"):
        raise ConversionError("A mixture of experts can't be converted; use llama.cpp.")
    embedding = source.tensors.get("token_embd.weight")
    if embedding is None or len(embedding[1].shape) != 2:
        raise ConversionError(f"{source.path.name} has no usable token_embd.weight.")
    hidden, heads = source.hyper("embedding_length"), source.hyper("attention.head_count")
    head = source.hyper("attention.key_length", hidden // max(heads, 1))
    sizes = Sizes(
        layers=source.hyper("block_count"),
        hidden=hidden,
        inner=source.hyper("feed_forward_length"),
        heads=heads,
        kv_heads=source.hyper("attention.head_count_kv", heads),
        head=head,
        vocabulary=embedding[1].shape[0],
    )
    _check(source, sizes)
    return sizes


def _check(source: Source, sizes: Sizes) -> None:
    # A layer has several tensors; a number beyond that would only make us list names for ever.
    if min(astuple(sizes)) < 1 or sizes.head % 2 or sizes.layers > len(source.tensors):
        raise ConversionError(f"{source.path.name} has sizes that make no sense.")
    if source.hyper("attention.value_length", sizes.head) != sizes.head:
        raise ConversionError("A model whose keys and values differ in width can't be converted.")
    if source.hyper("rope.dimension_count", sizes.head) != sizes.head:
        raise ConversionError("A model that rotates a part of each head can't be converted.")
    # mlx-lm and vLLM derive the width of a Qwen2 head; only the others may state it.
    if source.architecture == "qwen2" and sizes.head * sizes.heads != sizes.hidden:
        raise ConversionError("A qwen2 model with heads of an unusual width can't be converted.")


def places(family: str, sizes: Sizes) -> dict[str, Place]:
    """Every tensor that a model of a family may have, by its GGUF name.

    Source of the names: gguf-py's tensor_mapping.py. Rows of q and k are permuted in the family
    llama only (`LlamaModel.permute` of convert_hf_to_gguf.py).
    """
    hidden, vocabulary = sizes.hidden, sizes.vocabulary
    found = {
        "token_embd.weight": Place("model.embed_tokens.weight", (vocabulary, hidden)),
        "output_norm.weight": Place("model.norm.weight", (hidden,)),
        "output.weight": Place("lm_head.weight", (vocabulary, hidden), optional=True),
    }
    if family == "llama":
        found[ROPE_FREQS] = Place("", (sizes.head // 2,), optional=True)
    for layer in range(sizes.layers):
        for name, place in _layer(family, sizes).items():
            found[f"blk.{layer}.{name}"] = Place(
                f"model.layers.{layer}.{place.name}", place.shape, place.heads, place.optional
            )
    return found


def _layer(family: str, sizes: Sizes) -> dict[str, Place]:
    hidden, inner = sizes.hidden, sizes.inner
    found = {
        "attn_norm.weight": Place("input_layernorm.weight", (hidden,)),
        "ffn_norm.weight": Place("post_attention_layernorm.weight", (hidden,)),
        "ffn_gate.weight": Place("mlp.gate_proj.weight", (inner, hidden)),
        "ffn_up.weight": Place("mlp.up_proj.weight", (inner, hidden)),
        "ffn_down.weight": Place("mlp.down_proj.weight", (hidden, inner)),
    }
    q, kv, permuted = sizes.heads * sizes.head, sizes.kv_heads * sizes.head, family == "llama"
    for letter, word, rows, columns, heads in (
        ("q", "q", q, hidden, sizes.heads if permuted else 0),
        ("k", "k", kv, hidden, sizes.kv_heads if permuted else 0),
        ("v", "v", kv, hidden, 0),
        ("o", "output", hidden, q, 0),
    ):
        name = f"self_attn.{letter}_proj"
        found[f"attn_{word}.weight"] = Place(f"{name}.weight", (rows, columns), heads)
        if letter in _BIASES[family]:
            bias = Place(f"{name}.bias", (rows,), heads, optional=family == "llama")
            found[f"attn_{word}.bias"] = bias
    if family == "qwen3":
        for letter in "qk":
            norm = Place(f"self_attn.{letter}_norm.weight", (sizes.head,))
            found[f"attn_{letter}_norm.weight"] = norm
    return found
