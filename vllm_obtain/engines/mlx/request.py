"""One request: read from its body with every value checked, as the generation thread gets it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import Refusal
from .events import Event
from .grammar import Grammar


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the defaults change nothing.

    `presence_penalty` and `frequency_penalty` count generated tokens; `repetition_penalty` counts
    those of the prompt too. All of them, however far back: vLLM's rule (llama.cpp looks at the
    last 64, mlx-lm at the last 20, both with the prompt).
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
        """Draw other numbers for each choice; the first one gets those of a single one."""
        return replace(self, seed=self.seed + (choice << 64)) if choice else self

    @property
    def penalises(self) -> bool:
        """Whether tokens that were there before matter."""
        return bool(
            self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0
        )


@dataclass(eq=False)
class Request:
    """One request.

    Args:
        tokens: its prompt.
        max_tokens: the most to generate.
        bounded: whether the client named that number; if not, it is the rest of the context.
        sampling: how to draw.
        stop: texts that end it.
        logprobs: how many alternatives each token comes with; None for no log probabilities.
        tell: takes its events, called on the loop that serves HTTP.
        choices: how many answers are asked for.
        grammar: what an answer must look like, if anything.
        salt: prompts with another one share no kept caches with it.
    """

    tokens: list[int]
    max_tokens: int
    bounded: bool
    sampling: Sampling
    stop: list[str]
    logprobs: int | None
    tell: Callable[[Event], None]
    choices: int = 1
    grammar: Grammar | None = None
    salt: str = ""


def read_sampling(body: dict[str, Any], vocabulary: int) -> Sampling:
    """Read how to draw.

    Args:
        body: the request's body.
        vocabulary: how many tokens the model knows.

    Raises:
        Refusal: a value has the wrong type or is out of range.
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
    """Read the stop texts: none, one, or a list."""
    stop = body.get("stop")
    texts = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refusal("'stop' must be a text or a list of texts.", param="stop")
    return [text for text in texts if text]


def read_salt(body: dict[str, Any]) -> str:
    """Read what keeps a request's prompt from others'."""
    salt = body.get("cache_salt")
    if salt is not None and not isinstance(salt, str):
        raise Refusal("'cache_salt' must be a text.", param="cache_salt")
    return salt or ""


def read_logprobs(body: dict[str, Any]) -> int | None:
    """Read how many alternatives to tell."""
    return None if body.get("logprobs") is None else integer(body, "logprobs", 0, 0, 20)


def number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    """Read a number within bounds; null is the same as nothing."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refusal(f"'{name}' must be a number from {low} to {high}.", param=name)
    return float(value)


def integer(body: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    """Read a whole number within bounds; null is the same as nothing."""
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise Refusal(f"'{name}' must be a whole number from {low} to {high}.", param=name)
    return value


def _bias(given: Any, vocabulary: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    if given is None:
        return bias
    if not isinstance(given, dict):
        raise Refusal("'logit_bias' must be an object.", param="logit_bias")
    for token, value in given.items():
        known = token.isascii() and token.isdigit() and len(token) < 11 and int(token) < vocabulary
        if not known or isinstance(value, bool) or not isinstance(value, int | float):
            raise Refusal(
                f"'logit_bias' maps token ids below {vocabulary} to numbers.", param="logit_bias"
            )
        bias[int(token)] = max(-100.0, min(100.0, float(value)))
    return bias
