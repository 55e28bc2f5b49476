"""Ollama's error object, and what it calls the fields of our requests."""

from __future__ import annotations

from vllm_obtain.errors import ServiceError

# Where an engine refuses a field of our request, the client knows it by another name.
_NAMES = {
    "max_tokens": "options.num_predict",
    "repetition_penalty": "options.repeat_penalty",
    "reasoning_effort": "think",
    "response_format": "format",
    "structured_outputs": "format",
}
_NAMES |= {
    name: f"options.{name}"
    for name in "temperature top_k top_p min_p seed stop presence_penalty frequency_penalty".split()
}


def error_body(error: ServiceError) -> dict[str, str]:
    """Shape an error as Ollama does: a sentence.

    Source: https://docs.ollama.com/api/errors
    """
    message = error.message
    if error.param in _NAMES:
        message = message.replace(f"'{error.param}'", f"'{_NAMES[error.param]}'")
    return {"error": message}
