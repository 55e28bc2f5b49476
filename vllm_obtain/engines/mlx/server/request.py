"""Requests: parsed and validated for the generation thread."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import ErrorResponse
from .events import Event
from .guided_decoding import Grammar


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters; the defaults have no effect.

    `presence_penalty` and `frequency_penalty` count generated tokens, `repetition_penalty` counts
    prompt tokens too, without a limit of distance. This is vLLM's rule; llama.cpp considers the
    last 64 tokens, mlx-lm the last 20, both with the prompt.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int = field(default_factory=lambda: secrets.randbits(63))

    def for_choice(self, choice: int) -> Sampling:
        """Return the parameters of a choice, each with its own seed; the first keeps it."""
        return replace(self, seed=self.seed + (choice << 64)) if choice else self

    @property
    def penalises(self) -> bool:
        """Whether previous tokens affect the logits."""
        return bool(
            self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0
        )


@dataclass(eq=False)
class Request:
    """One request.

    Args:
        tokens: the prompt.
        max_tokens: the most tokens to generate.
        bounded: whether the client set `max_tokens`; otherwise it is the rest of the context.
        sampling: sampling parameters.
        stop: stop sequences.
        logprobs: number of alternatives per token; None for no log probabilities.
        on_event: callback for its events, called on the event loop of the HTTP thread.
        choices: number of choices.
        grammar: grammar that the completion must match, if any.
        salt: only requests with the same salt share prefix cache entries.
    """

    tokens: list[int]
    max_tokens: int
    bounded: bool
    sampling: Sampling
    stop: list[str]
    logprobs: int | None
    on_event: Callable[[Event], None]
    choices: int = 1
    grammar: Grammar | None = None
    salt: str = ""


def read_sampling(body: dict[str, Any], vocabulary: int) -> Sampling:
    """Parse the sampling parameters.

    Args:
        body: the request body.
        vocabulary: size of the model's vocabulary.

    Raises:
        ErrorResponse: a value has the wrong type or is out of range.
    """
    values: dict[str, Any] = {
        "temperature": number(body, "temperature", 1.0, 0, 100),
        "top_p": number(body, "top_p", 1.0, 0, 1),
        "top_k": max(0, integer(body, "top_k", 0, -1, 2**31)),
        "min_p": number(body, "min_p", 0.0, 0, 1),
        "presence_penalty": number(body, "presence_penalty", 0.0, -100, 100),
        "frequency_penalty": number(body, "frequency_penalty", 0.0, -100, 100),
        "repetition_penalty": number(body, "repetition_penalty", 1.0, 1e-3, 100),
        "logit_bias": _bias(body.get("logit_bias"), vocabulary),
    }
    if body.get("seed") is not None:
        values["seed"] = integer(body, "seed", 0, -(2**63), 2**64)
    return Sampling(**values)


def read_stop(body: dict[str, Any]) -> list[str]:
    """Parse the stop sequences: none, one, or a list."""
    stop = body.get("stop")
    texts = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ErrorResponse("'stop' must be a string or a list of strings.", param="stop")
    return [text for text in texts if text]


def read_salt(body: dict[str, Any]) -> str:
    """Parse the salt that isolates a request's prefix cache."""
    salt = body.get("cache_salt")
    if salt is not None and not isinstance(salt, str):
        raise ErrorResponse("'cache_salt' must be a string.", param="cache_salt")
    return salt or ""


def read_logprobs(body: dict[str, Any]) -> int | None:
    """Parse the number of alternatives in the log probabilities."""
    return None if body.get("logprobs") is None else integer(body, "logprobs", 0, 0, 20)


def number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    """Parse a number within bounds, which are included; null counts as absent.

    Raises:
        ErrorResponse: another type, or out of bounds.
    """
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ErrorResponse(f"'{name}' must be a number from {low} to {high}.", param=name)
    return float(value)


def integer(body: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    """Parse an integer; bounds and errors as in `number`."""
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise ErrorResponse(f"'{name}' must be an integer from {low} to {high}.", param=name)
    return value


def _bias(value: Any, vocabulary: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    if value is None:
        return bias
    if not isinstance(value, dict):
        raise ErrorResponse("'logit_bias' must be an object.", param="logit_bias")
    for token, amount in value.items():
        known = token.isascii() and token.isdigit() and len(token) < 11 and int(token) < vocabulary
        if not known or isinstance(amount, bool) or not isinstance(amount, int | float):
            raise ErrorResponse(
                f"'logit_bias' maps token ids below {vocabulary} to numbers.", param="logit_bias"
            )
        bias[int(token)] = max(-100.0, min(100.0, float(amount)))
    return bias
