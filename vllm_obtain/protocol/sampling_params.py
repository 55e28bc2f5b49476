"""The sampling parameters of an engine request, with every default applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

SAMPLING: Final = frozenset(("temperature", "top_p", "top_k", "min_p"))
PENALTIES: Final = frozenset(("repetition_penalty", "presence_penalty", "frequency_penalty"))
# Used if neither the request nor the model sets a parameter of SAMPLING. OpenAI's defaults
# (temperature 1, no truncation) produce incoherent text with small models.
DEFAULTS: Final[Mapping[str, Any]] = {
    "temperature": 0.8,
    "top_p": 0.95,
    "top_k": 40,
    "min_p": 0.05,
}


class SamplingParams(Struct, frozen=True, kw_only=True):
    """How an engine generates. `resolve` makes it.

    Args:
        max_tokens: the most tokens of a completion; None to fill the context.
        min_tokens: the fewest tokens of a completion.
        temperature: 0 is greedy decoding.
        top_p: 1 is off.
        top_k: 0 is off.
        min_p: 0 is off.
        repetition_penalty: 1 is off.
        presence_penalty: 0 is off.
        frequency_penalty: 0 is off.
        choices: the number of completions that the client gets.
        n: the number of completions to generate: 1 at temperature 0, where all are equal.
        seed: None for a random one.
        stop: the stop sequences.
        logit_bias: bias by token id, as a decimal number.
        logprobs: alternatives per token in the log probabilities; None without log probabilities.
        ignore_eos: whether to continue after an end-of-sequence token.
        client_params: the parameters that the client used, with its values. It may include ones
            that only some engines know, such as `suffix`.
        model_params: the defaults of the model.
    """

    max_tokens: int | None
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    choices: int
    n: int
    seed: int | None
    stop: list[str]
    logit_bias: dict[str, float]
    logprobs: int | None
    ignore_eos: bool
    client_params: Mapping[str, Any]
    model_params: Mapping[str, Any]

    @classmethod
    def resolve(
        cls, client_params: Mapping[str, Any], model_params: Mapping[str, Any] | None = None
    ) -> SamplingParams:
        """Apply defaults.

        A client that sets one of SAMPLING gets no default for the others, because defaults of a
        model belong together.

        Args:
            client_params: the parameters that the client used, named as in OpenAI's API.
            model_params: the defaults of the model: SAMPLING, PENALTIES and `max_tokens`.
        """
        get, model_params = client_params.get, model_params or {}
        if not SAMPLING.isdisjoint(client_params):
            sampling = penalties = client_params
        else:
            sampling = DEFAULTS if SAMPLING.isdisjoint(model_params) else model_params
            penalties = model_params if PENALTIES.isdisjoint(client_params) else client_params
        temperature, choices, stop = sampling.get("temperature", 1.0), get("n", 1), get("stop", [])
        logprobs = get("logprobs")
        return cls(
            # `max_completion_tokens` is the newer name.
            max_tokens=get("max_completion_tokens")
            or get("max_tokens")
            or model_params.get("max_tokens"),
            min_tokens=get("min_tokens", 0),
            temperature=temperature,
            top_p=sampling.get("top_p", 1.0),
            top_k=max(sampling.get("top_k", 0), 0),
            min_p=sampling.get("min_p", 0.0),
            repetition_penalty=penalties.get("repetition_penalty", 1.0),
            presence_penalty=penalties.get("presence_penalty", 0.0),
            frequency_penalty=penalties.get("frequency_penalty", 0.0),
            choices=choices,
            n=1 if temperature == 0 else choices,
            seed=get("seed"),
            stop=[stop] if isinstance(stop, str) else stop,
            logit_bias=get("logit_bias", {}),
            # A switch in chats, a number in completions.
            logprobs=get("top_logprobs", 0) if logprobs is True else logprobs,
            ignore_eos=get("ignore_eos", False),
            client_params=client_params,
            model_params=model_params,
        )

    def without(self, name: str) -> SamplingParams:
        """Return the parameters as if the client had not used one of them.

        Args:
            name: a key of `client_params`.
        """
        rest = {key: value for key, value in self.client_params.items() if key != name}
        return self.resolve(rest, self.model_params)
