"""Builds config.json and generation_config.json of a converted model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vllm_obtain.models.convert.architectures import CLASSES, ArchitectureSizes
from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.gguf_source import GGUFSource
from vllm_obtain.models.convert.rope import rope_scaling
from vllm_obtain.models.convert.tensor_jobs import GROUP, TensorJob
from vllm_obtain.models.convert.vocabulary import Vocabulary

_TORCH = {"F16": "float16", "BF16": "bfloat16"}


def config(
    source: GGUFSource, sizes: ArchitectureSizes, jobs: Sequence[TensorJob]
) -> dict[str, object]:
    """Build config.json without the token ids.

    Args:
        source: the GGUF model.
        sizes: the sizes of the model.
        jobs: the tensor jobs.

    Raises:
        ConversionError: the model has a property that config.json cannot express.
    """
    family = source.architecture
    content: dict[str, object] = {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": source.hyper("context_length"),
        "rms_norm_eps": source.real(f"{family}.attention.layer_norm_rms_epsilon"),
        "rope_theta": source.real(f"{family}.rope.freq_base", 10000.0),
        "rope_scaling": rope_scaling(source),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "attention_bias": _has_bias(source, sizes),
        "use_cache": True,
        "torch_dtype": _TORCH[_sixteen_bit(jobs)],
    }
    if family == "llama":
        content["mlp_bias"] = False
    else:
        content["use_sliding_window"] = False
    if any(job.bits for job in jobs):
        content["quantization"] = _quantization(jobs)
    return content


def token_ids(vocabulary: Vocabulary) -> dict[str, object]:
    """Build the token ids of config.json."""
    return {
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "pad_token_id": vocabulary.pad,
    }


def generation_config(vocabulary: Vocabulary) -> dict[str, object]:
    """Build generation_config.json, which lists all EOS tokens."""
    return {**token_ids(vocabulary), "eos_token_id": vocabulary.endings}


def _has_bias(source: GGUFSource, sizes: ArchitectureSizes) -> bool:
    """Whether the attention projections have biases; config.json can express all or none."""
    if source.architecture != "llama":
        return source.architecture == "qwen2"
    count = sum(name.startswith("blk.") and name.endswith(".bias") for name in source.tensors)
    if count not in (0, 4 * sizes.layers):
        raise ConversionError(
            "llama models with biases on some projections cannot be converted. Use llama.cpp."
        )
    return count > 0


def _sixteen_bit(jobs: Sequence[TensorJob]) -> str:
    return next(output.dtype for job in jobs if not job.bits for output in job.outputs)


def _quantization(jobs: Sequence[TensorJob]) -> dict[str, object]:
    """Build mlx-lm's `quantization`: the most frequent width, and the exceptions by name."""
    widths: Counter[int] = Counter()
    for job in jobs:
        widths[job.bits] += job.read_bytes if job.bits else 0
    usual = widths.most_common(1)[0][0]
    content: dict[str, object] = {"group_size": GROUP, "bits": usual, "mode": "affine"}
    for job in jobs:
        if job.bits and job.bits != usual:
            module = job.outputs[0].name.removesuffix(".weight")
            content[module] = {"group_size": GROUP, "bits": job.bits, "mode": "affine"}
    return content
