"""Translates Ollama's `options` to sampling parameters, and rejects unsupported ones."""

from __future__ import annotations

from typing import Any

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.gateway.ollama.request_types import Options

# Ollama's defaults, which apply if a request sets at least one of these options.
SAMPLING_DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0}
# Values of `num_predict` for generation up to the context length.
UNLIMITED = (-1, -2)
RANDOM = -1

_LOADING = "Load options are settings of the service; remove the option."
_SAMPLING = "The sampling method is not supported; remove the option."
# Unsupported options, their values without effect, and the reason for rejecting other values.
_NEUTRAL: dict[str, tuple[tuple[object, ...], str]] = {
    "typical_p": ((1,), _SAMPLING),
    "tfs_z": ((1,), _SAMPLING),
    "mirostat": ((0,), _SAMPLING),
    "penalize_newline": ((True,), "Penalties apply to all tokens; remove the option."),
    "num_gpu": ((-1,), _LOADING),
    "num_thread": ((0,), _LOADING),
    "num_batch": ((), _LOADING),
    "main_gpu": ((), _LOADING),
    "draft_num_predict": ((0,), _LOADING),
    "numa": ((False,), _LOADING),
    "low_vram": ((False,), _LOADING),
    "f16_kv": ((True,), _LOADING),
    "logits_all": ((False,), _LOADING),
    "vocab_only": ((False,), _LOADING),
    "embedding_only": ((False,), _LOADING),
    "use_mmap": ((), _LOADING),
    "use_mlock": ((False,), _LOADING),
}


def sampling(options: Options | None, ignored: list[str] | None = None) -> dict[str, Any]:
    """Translate options to fields of an OpenAI request.

    `check_context` handles `num_ctx`, because it needs the model. `num_keep` has no effect,
    because tokens are never dropped.

    Args:
        options: options of the request; None without any.
        ignored: list to append load options to, which the operator sets; None rejects them.

    Raises:
        InvalidRequest: a value is out of range.
        UnsupportedParameter: an option is not supported.
    """
    if options is None:
        return {}
    _check_supported(options, ignored)
    fields: dict[str, Any] = {
        "max_tokens": _limit(options.num_predict),
        "seed": None if options.seed == RANDOM else options.seed,
        "stop": options.stop or None,
        "repetition_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
    }
    values = {name: getattr(options, name) for name in SAMPLING_DEFAULTS}
    if any(value is not None for value in values.values()):
        fields |= {
            name: SAMPLING_DEFAULTS[name] if value is None else value
            for name, value in values.items()
        }
    return {name: value for name, value in fields.items() if value is not None}


def check_context(options: Options | None, context: int | None) -> None:
    """Reject a `num_ctx` above the model's context length.

    Args:
        options: options of the request.
        context: context length of the model in tokens; None if unknown.
    """
    num_ctx = options.num_ctx if options is not None else None
    if num_ctx is not None and context is not None and num_ctx > context:
        raise UnsupportedParameter(
            "options.num_ctx",
            f"The model's context length is {context} tokens; lower the value.",
        )


def _limit(num_predict: int | None) -> int | None:
    if num_predict is None or num_predict in UNLIMITED:
        return None
    if not 1 <= num_predict < 2**31:
        raise InvalidRequest(
            "Invalid 'options.num_predict': must be a positive number of tokens, or -1 or -2 for "
            "up to the context length.",
            param="options.num_predict",
        )
    return num_predict


def _check_supported(options: Options, ignored: list[str] | None) -> None:
    for name, (neutral, reason) in _NEUTRAL.items():
        value = getattr(options, name)
        if value is None or value in neutral:
            continue
        if ignored is None or reason is not _LOADING:
            raise UnsupportedParameter(f"options.{name}", reason)
        ignored.append(f"options.{name}")
    if options.repeat_last_n is not None and options.repeat_penalty not in (None, 1):
        raise UnsupportedParameter(
            "options.repeat_last_n", "Engines set the window of penalties; remove the option."
        )
