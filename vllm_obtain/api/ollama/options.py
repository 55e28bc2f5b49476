"""What becomes of Ollama's `options`: sampling that every engine knows, or a refusal by name."""

from __future__ import annotations

from typing import Any

from vllm_obtain.api.ollama.requests import Options
from vllm_obtain.errors import InvalidRequest, UnsupportedParameter

# Ollama's defaults, for what a request leaves out that names any of the four.
DRAWN = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0}
# As many tokens as the context holds.
ENDLESS = (-1, -2)
RANDOM = -1

_LOADING = "How a model is loaded is set where the service runs; leave it out."
_DRAWING = "The engines here have no such way to draw; leave it out."
# Options that nothing is made of, the values that ask for what is there anyway, and why not more.
_NEUTRAL: dict[str, tuple[tuple[object, ...], str]] = {
    "typical_p": ((1,), _DRAWING),
    "tfs_z": ((1,), _DRAWING),
    "mirostat": ((0,), _DRAWING),
    "penalize_newline": ((True,), "Penalties count every token; leave it out."),
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


def sampling(options: Options | None) -> dict[str, Any]:
    """Turn options into the fields of a request of ours.

    `num_ctx` is not looked at here, since it needs the model; see `check_context`. `num_keep`
    asks which tokens to keep when old ones are dropped: none ever are.

    Args:
        options: as they came, None for none.

    Raises:
        InvalidRequest: a value that cannot be.
        UnsupportedParameter: an option that asks for what is not done here.
    """
    if options is None:
        return {}
    _refuse(options)
    fields: dict[str, Any] = {
        "max_tokens": _limit(options.num_predict),
        "seed": None if options.seed == RANDOM else options.seed,
        "stop": options.stop or None,
        "repetition_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
    }
    named = {name: getattr(options, name) for name in DRAWN}
    if any(value is not None for value in named.values()):
        fields |= {name: DRAWN[name] if value is None else value for name, value in named.items()}
    return {name: value for name, value in fields.items() if value is not None}


def check_context(options: Options | None, context: int | None) -> None:
    """Refuse a context that is larger than what there is; a smaller one is there as well.

    Args:
        options: as they came.
        context: tokens that the model is served with, or None when nobody knows yet.
    """
    wanted = options.num_ctx if options is not None else None
    if wanted is not None and context is not None and wanted > context:
        raise UnsupportedParameter(
            "options.num_ctx",
            f"This model is served with a context of {context} tokens; ask for that or less.",
        )


def _limit(num_predict: int | None) -> int | None:
    if num_predict is None or num_predict in ENDLESS:
        return None
    if not 1 <= num_predict < 2**31:
        raise InvalidRequest(
            "Invalid 'options.num_predict': it is a positive number of tokens, or -1 or -2 for as "
            "many as the context holds.",
            param="options.num_predict",
        )
    return num_predict


def _refuse(options: Options) -> None:
    for name, (neutral, why) in _NEUTRAL.items():
        value = getattr(options, name)
        if value is not None and value not in neutral:
            raise UnsupportedParameter(f"options.{name}", why)
    if options.repeat_last_n is not None and options.repeat_penalty not in (None, 1):
        raise UnsupportedParameter(
            "options.repeat_last_n", "How far back penalties look is the engine's; leave it out."
        )
