"""Converts the RoPE scaling of a GGUF file to the format of config.json."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.gguf_source import GGUFSource

ROPE_FREQS = "rope_freqs.weight"
# Parameters of Llama 3.1's scaling. GGUF files store only the resulting factors.
_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192


def rope_scaling(source: GGUFSource) -> dict[str, object] | None:
    """Return the `rope_scaling` of config.json, or None.

    Raises:
        ConversionError: the scaling type is not supported.
    """
    prefix = f"{source.architecture}.rope"
    kind = source.text(f"{prefix}.scaling.type")
    if ROPE_FREQS in source.tensors:
        base = source.real(f"{prefix}.freq_base", 10000.0)
        return llama3_scaling(base, source.floats(ROPE_FREQS))
    if kind in (None, "none"):
        return None
    if kind not in ("linear", "yarn"):
        raise ConversionError(
            f"The RoPE scaling {kind} of {source.path.name} cannot be converted. Use llama.cpp."
        )
    scaling: dict[str, object] = {
        "type": kind,
        "rope_type": kind,
        "factor": source.real(f"{prefix}.scaling.factor"),
    }
    if kind == "yarn":
        original = source.integer(f"{prefix}.scaling.original_context_length")
        scaling["original_max_position_embeddings"] = original
    return scaling


def llama3_factors(base: float, dimensions: int, factor: float) -> list[float]:
    """Compute the frequency divisors of Llama 3.1's scaling.

    Source: `generate_extra_tensors` of llama.cpp's convert_hf_to_gguf.py, and
    `_compute_llama3_parameters` of transformers.

    Args:
        base: rope theta.
        dimensions: head size.
        factor: extension factor of the context length.
    """
    factors = []
    for index in range(0, dimensions, 2):
        wavelength = 2 * math.pi * base ** (index / dimensions)
        if wavelength < _ORIGINAL / _HIGH:
            factors.append(1.0)
        elif wavelength > _ORIGINAL / _LOW:
            factors.append(factor)
        else:
            smooth = (_ORIGINAL / wavelength - _LOW) / (_HIGH - _LOW)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def llama3_scaling(base: float, divisors: Sequence[float]) -> dict[str, object]:
    """Reconstruct the `rope_scaling` of a file from its `rope_freqs`.

    Args:
        base: rope theta.
        divisors: the values of `rope_freqs`.

    Raises:
        ConversionError: they do not match Llama 3.1's scaling.
    """
    factor = round(max(divisors, default=0.0), 4)
    known = llama3_factors(base, 2 * len(divisors), factor) if factor > 0 else []
    pairs = zip(known, divisors, strict=False)
    if not known or not all(math.isclose(a, b, rel_tol=1e-3) for a, b in pairs):
        raise ConversionError(
            "The RoPE factors of the model cannot be converted: they do not match Llama 3.1's "
            "scaling. Use llama.cpp."
        )
    return {
        "type": "llama3",
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _ORIGINAL,
    }
