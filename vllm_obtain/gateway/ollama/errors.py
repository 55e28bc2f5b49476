"""Errors in Ollama's format, with Ollama's names of request fields."""

from __future__ import annotations

from vllm_obtain.errors import ServiceError

# Ollama's names of fields of the translated request, for errors that engines report.
NAMES = {
    "max_tokens": "options.num_predict",
    "repetition_penalty": "options.repeat_penalty",
    "reasoning_effort": "think",
    "response_format": "format",
    "structured_outputs": "format",
}
NAMES |= {
    name: f"options.{name}"
    for name in "temperature top_k top_p min_p seed stop presence_penalty frequency_penalty".split()
}


# Paths of the API, whose errors have its format, also those of unknown routes.
PREFIX = "/api/"


def error_body(error: ServiceError) -> dict[str, str]:
    """Render an error in Ollama's format, an object with the message.

    Source: https://docs.ollama.com/api/errors
    """
    message = error.message
    if error.param in NAMES:
        message = message.replace(f"'{error.param}'", f"'{NAMES[error.param]}'")
    return {"error": message}
