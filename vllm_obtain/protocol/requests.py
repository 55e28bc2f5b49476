"""The bodies of inference requests, typed and checked before any engine sees them.

Names, types and ranges are those of OpenAI's API reference; top_k, min_p and repetition_penalty
are the extensions that vLLM made common. A field that is not here is refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from msgspec import Meta, Struct

from vllm_obtain.protocol.conversation import Message
from vllm_obtain.protocol.tools import ResponseFormat, Schema, Tool, ToolChoice

Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Text = Annotated[str, Meta(min_length=1)]
Stop = Text | Annotated[list[Text], Meta(max_length=16)]
Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class StreamOptions(Struct, forbid_unknown_fields=True):
    """How a stream is told."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class StructuredOutputs(Struct, forbid_unknown_fields=True):
    """vLLM's newer way to say `guided_…`: one of these."""

    json: Schema | str | None = None
    regex: Text | None = None
    choice: Annotated[list[Text], Meta(min_length=1, max_length=4096)] | None = None
    grammar: Text | None = None
    json_object: bool | None = None


class Sampling(NamedTuple):
    """How a token is drawn, every value spelled out. `top_k` 0 and `min_p` 0 are off."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float


# For requests that say nothing about sampling. OpenAI's own defaults (temperature 1, nothing
# cut off) make small models talk nonsense.
USUAL = Sampling(temperature=0.8, top_p=0.95, top_k=40, min_p=0.05)


class InferenceFields(Struct, kw_only=True):
    """What chat and completion requests share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Positive | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Probability | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    logit_bias: dict[Annotated[str, Meta(pattern=r"^[0-9]{1,10}$(?!\n)")], Bias] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    ignore_eos: bool | None = None
    guided_json: Schema | str | None = None
    guided_regex: Text | None = None
    guided_choice: Annotated[list[Text], Meta(min_length=1, max_length=4096)] | None = None
    guided_grammar: Text | None = None
    structured_outputs: StructuredOutputs | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None

    # Fields that the gateway honours itself, whatever the engine: see `chat/prepare.py`.
    OURS: ClassVar[frozenset[str]] = frozenset(
        "messages prompt tools tool_choice parallel_tool_calls response_format reasoning_effort "
        "chat_template_kwargs add_generation_prompt continue_final_message guided_json "
        "guided_regex guided_choice guided_grammar structured_outputs".split()
    )

    # Fields that say who asks or how to deliver: they do not change the answer.
    LABELS: ClassVar[frozenset[str]] = frozenset(
        "model stream stream_options user safety_identifier prompt_cache_key metadata".split()
    )

    @property
    def wants_stream(self) -> bool:
        """Whether the answer goes out as events."""
        return bool(self.stream)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def stop_texts(self) -> list[str]:
        """The texts that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate, or None for as many as the context holds."""
        return self.max_tokens

    @property
    def alternatives(self) -> int:
        """How many other tokens each token's log probability comes with."""
        return 0

    @property
    def wanted_logprobs(self) -> int | None:
        """How many alternatives each token comes with; None for no log probabilities."""
        return None

    @property
    def sampling(self) -> Sampling:
        """How to draw: what the request names, and nothing else if it names anything."""
        given = (self.temperature, self.top_p, self.top_k, self.min_p)
        if all(value is None for value in given):
            return USUAL
        temperature = 1.0 if self.temperature is None else self.temperature
        top_p = 1.0 if self.top_p is None else self.top_p
        return Sampling(temperature, top_p, max(self.top_k or 0, 0), self.min_p or 0.0)

    @property
    def choices(self) -> int:
        """How many answers the client gets."""
        return self.n or 1

    @property
    def draws(self) -> int:
        """How many answers the engine makes: at temperature 0 one, as all would be the same."""
        return 1 if self.temperature == 0 else self.choices

    @property
    def is_deterministic(self) -> bool:
        """Whether the same request gives the same answer: greedy, or drawn from a given seed."""
        return self.temperature == 0 or self.seed is not None


class ChatRequest(InferenceFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    prediction: dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None

    # A value that asks for what happens anyway is no demand on the engine.
    NEUTRAL: ClassVar[dict[str, tuple[object, ...]]] = {
        "n": (1,),
        "min_tokens": (0,),
        "ignore_eos": (False,),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "store": (False,),
        "service_tier": ("auto", "default"),
    }

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate; `max_completion_tokens` is the newer name and wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int:
        """How many other tokens each token's log probability comes with."""
        return self.top_logprobs or 0

    @property
    def wanted_logprobs(self) -> int | None:
        """How many alternatives each token comes with; None for no log probabilities."""
        return self.alternatives if self.logprobs else None


class CompletionRequest(InferenceFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/completions."""

    prompt: str | Annotated[list[Token | str], Meta(min_length=1)]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None

    @property
    def alternatives(self) -> int:
        """How many other tokens each token's log probability comes with."""
        return self.logprobs or 0

    @property
    def wanted_logprobs(self) -> int | None:
        """How many alternatives each token comes with; None for no log probabilities."""
        return self.logprobs

    NEUTRAL: ClassVar[dict[str, tuple[object, ...]]] = {
        "n": (1,),
        "min_tokens": (0,),
        "ignore_eos": (False,),
        "echo": (False,),
        "suffix": ("",),
        "best_of": (1,),
    }


InferenceRequest = ChatRequest | CompletionRequest


def demands(request: InferenceRequest) -> list[str]:
    """List the parameters of a request that ask something of the engine.

    Returns:
        Field names in the order of the type, without those left out, those that only label the
        request, those that the gateway honours itself, and those whose value asks for nothing.
    """
    return [
        name
        for name in request.__struct_fields__
        if name not in InferenceFields.LABELS | InferenceFields.OURS
        and (value := getattr(request, name)) is not None
        and value not in request.NEUTRAL.get(name, ())
    ]
