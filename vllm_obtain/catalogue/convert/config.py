"""config.json and generation_config.json, as transformers, mlx-lm and vLLM read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.convert.family import CLASSES, Sizes
from vllm_obtain.catalogue.convert.jobs import GROUP, Job
from vllm_obtain.catalogue.convert.rope import rope_scaling
from vllm_obtain.catalogue.convert.source import Source
from vllm_obtain.catalogue.convert.vocabulary import Vocabulary

_TORCH = {"F16": "float16", "BF16": "bfloat16"}


def config(source: Source, sizes: Sizes, jobs: Sequence[Job]) -> dict[str, object]:
    """The content of config.json but for the tokens.

    Args:
        source: the GGUF model.
        sizes: its sizes.
        jobs: what it becomes.

    Raises:
        ConversionError: the model has something that a config can't say.
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
        content["quantization"] = _quantisation(jobs)
    return content


def token_ids(words: Vocabulary) -> dict[str, object]:
    """What config.json says about tokens."""
    return {"bos_token_id": words.bos, "eos_token_id": words.eos, "pad_token_id": words.pad}


def generation_config(words: Vocabulary) -> dict[str, object]:
    """The content of generation_config.json: which tokens begin and end an answer."""
    return {**token_ids(words), "eos_token_id": words.endings}


def _has_bias(source: Source, sizes: Sizes) -> bool:
    """Whether llama's four projections have biases; a config can only say all or none."""
    if source.architecture != "llama":
        return source.architecture == "qwen2"
    count = sum(name.startswith("blk.") and name.endswith(".bias") for name in source.tensors)
    if count not in (0, 4 * sizes.layers):
        raise ConversionError("A llama model with biases on some projections can't be converted.")
    return count > 0


def _sixteen_bit(jobs: Sequence[Job]) -> str:
    return next(output.dtype for job in jobs if not job.bits for output in job.outputs)


def _quantisation(jobs: Sequence[Job]) -> dict[str, object]:
    """mlx-lm's `quantization`: the most frequent width, and what differs from it by name."""
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
