"""The convertible model families: their sizes, and their tensors by name."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final

from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.gguf_source import GGUFSource
from vllm_obtain.models.convert.rope import ROPE_FREQS

# GGUF architecture: the class in config.json, by which mlx-lm and vLLM select the model code.
CLASSES: Final = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_BIASES: Final = {"llama": "qkvo", "qwen2": "qkv", "qwen3": ""}


@dataclass(frozen=True, slots=True)
class ArchitectureSizes:
    """The dimensions of a model's tensors."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class TensorMapping:
    """The Hugging Face counterpart of a GGUF tensor.

    Args:
        name: the Hugging Face name.
        shape: the required shape.
        heads: the number of heads whose rows llama.cpp permuted; 0 if it permuted none.
        optional: whether the tensor may be missing.
    """

    name: str
    shape: tuple[int, ...]
    heads: int = 0
    optional: bool = False


def read_sizes(source: GGUFSource) -> ArchitectureSizes:
    """Read the sizes of a model.

    Raises:
        ConversionError: the family or the variant is not supported.
    """
    family = source.architecture
    if family not in CLASSES:
        known = ", ".join(CLASSES)
        raise ConversionError(
            f"The model family {family} cannot be converted, only {known}. Use llama.cpp."
        )
    if source.has("expert_count") and source.hyper("expert_count"):
        raise ConversionError("Mixture-of-experts models cannot be converted. Use llama.cpp.")
    embedding = source.tensors.get("token_embd.weight")
    if embedding is None or len(embedding[1].shape) != 2:
        raise ConversionError(
            f"{source.path.name} has no valid token_embd.weight. Download the model again."
        )
    hidden, heads = source.hyper("embedding_length"), source.hyper("attention.head_count")
    head = source.hyper("attention.key_length", hidden // max(heads, 1))
    sizes = ArchitectureSizes(
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


def _check(source: GGUFSource, sizes: ArchitectureSizes) -> None:
    # Limits the names to list for a damaged file: every layer has several tensors.
    if min(astuple(sizes)) < 1 or sizes.head % 2 or sizes.layers > len(source.tensors):
        raise ConversionError(
            f"{source.path.name} has inconsistent sizes. Download the model again."
        )
    if source.hyper("attention.value_length", sizes.head) != sizes.head:
        raise ConversionError(
            "Models with keys and values of different width cannot be converted. Use llama.cpp."
        )
    if source.hyper("rope.dimension_count", sizes.head) != sizes.head:
        raise ConversionError(
            "Models with partial rotary embeddings cannot be converted. Use llama.cpp."
        )
    # mlx-lm and vLLM compute the head size of Qwen2; its config cannot set it.
    if source.architecture == "qwen2" and sizes.head * sizes.heads != sizes.hidden:
        raise ConversionError(
            "qwen2 models with a custom head size cannot be converted. Use llama.cpp."
        )


def tensor_mappings(family: str, sizes: ArchitectureSizes) -> dict[str, TensorMapping]:
    """Return all tensors of a model family by GGUF name.

    Source of the names: gguf-py's tensor_mapping.py. Only the family llama has permuted rows, in
    q and k (`LlamaModel.permute` in convert_hf_to_gguf.py).
    """
    hidden, vocabulary = sizes.hidden, sizes.vocabulary
    mappings = {
        "token_embd.weight": TensorMapping("model.embed_tokens.weight", (vocabulary, hidden)),
        "output_norm.weight": TensorMapping("model.norm.weight", (hidden,)),
        "output.weight": TensorMapping("lm_head.weight", (vocabulary, hidden), optional=True),
    }
    if family == "llama":
        mappings[ROPE_FREQS] = TensorMapping("", (sizes.head // 2,), optional=True)
    for layer in range(sizes.layers):
        for name, mapping in _layer(family, sizes).items():
            mappings[f"blk.{layer}.{name}"] = TensorMapping(
                f"model.layers.{layer}.{mapping.name}",
                mapping.shape,
                mapping.heads,
                mapping.optional,
            )
    return mappings


def _layer(family: str, sizes: ArchitectureSizes) -> dict[str, TensorMapping]:
    hidden, inner = sizes.hidden, sizes.inner
    mappings = {
        "attn_norm.weight": TensorMapping("input_layernorm.weight", (hidden,)),
        "ffn_norm.weight": TensorMapping("post_attention_layernorm.weight", (hidden,)),
        "ffn_gate.weight": TensorMapping("mlp.gate_proj.weight", (inner, hidden)),
        "ffn_up.weight": TensorMapping("mlp.up_proj.weight", (inner, hidden)),
        "ffn_down.weight": TensorMapping("mlp.down_proj.weight", (hidden, inner)),
    }
    q, kv, permuted = sizes.heads * sizes.head, sizes.kv_heads * sizes.head, family == "llama"
    for letter, word, rows, columns, heads in (
        ("q", "q", q, hidden, sizes.heads if permuted else 0),
        ("k", "k", kv, hidden, sizes.kv_heads if permuted else 0),
        ("v", "v", kv, hidden, 0),
        ("o", "output", hidden, q, 0),
    ):
        name = f"self_attn.{letter}_proj"
        mappings[f"attn_{word}.weight"] = TensorMapping(f"{name}.weight", (rows, columns), heads)
        if letter in _BIASES[family]:
            bias = TensorMapping(f"{name}.bias", (rows,), heads, optional=family == "llama")
            mappings[f"attn_{word}.bias"] = bias
    if family == "qwen3":
        for letter in "qk":
            norm = TensorMapping(f"self_attn.{letter}_norm.weight", (sizes.head,))
            mappings[f"attn_{letter}_norm.weight"] = norm
    return mappings
