"""The bodies of inference requests, typed and validated.

Names, types and ranges are those of OpenAI's API reference; top_k, min_p and repetition_penalty
are common extensions from vLLM. Unknown fields are rejected by name.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from vllm_obtain.protocol.messages import MAX_MESSAGES, Message
from vllm_obtain.protocol.tools import MAX_TOOLS, ResponseFormat, Schema, Tool, ToolChoice

Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Text = Annotated[str, Meta(min_length=1)]
MAX_STOPS = 64
Stop = Text | Annotated[list[Text], Meta(max_length=MAX_STOPS)]
Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class StreamOptions(Struct, forbid_unknown_fields=True):
    """Options of a streamed response."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class StructuredOutputs(Struct, forbid_unknown_fields=True):
    """vLLM's newer name for the `guided_…` fields. Exactly one of these."""

    json: Schema | str | None = None
    regex: Text | None = None
    choice: Annotated[list[Text], Meta(min_length=1, max_length=4096)] | None = None
    grammar: Text | None = None
    json_object: bool | None = None


class InferenceFields(Struct, kw_only=True):
    """The common fields of chat and completion requests."""

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

    # Fields that the gateway implements for every engine: see `chat/prepare.py`.
    OURS: ClassVar[frozenset[str]] = frozenset(
        "messages prompt tools tool_choice parallel_tool_calls response_format reasoning_effort "
        "enable_thinking think "
        "chat_template_kwargs add_generation_prompt continue_final_message guided_json "
        "guided_regex guided_choice guided_grammar structured_outputs echo".split()
    )

    # Fields about the caller or the delivery, which do not affect the completion.
    LABELS: ClassVar[frozenset[str]] = frozenset(
        "model stream stream_options user safety_identifier prompt_cache_key metadata".split()
    )


class ChatRequest(InferenceFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    enable_thinking: bool | None = None
    think: bool | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    prediction: dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None

    # Values that ask for the default behaviour need no support of the engine.
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


class CompletionRequest(InferenceFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/completions."""

    prompt: str | Annotated[list[Token | str], Meta(min_length=1)]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None

    NEUTRAL: ClassVar[dict[str, tuple[object, ...]]] = {
        "n": (1,),
        "min_tokens": (0,),
        "ignore_eos": (False,),
        "echo": (False,),
        "suffix": ("",),
        "best_of": (1,),
    }


InferenceRequest = ChatRequest | CompletionRequest


# The fields that engines have to support.
_ENGINE_FIELDS = {
    kind: tuple(
        name
        for name in kind.__struct_fields__
        if name not in InferenceFields.LABELS | InferenceFields.OURS
    )
    for kind in (ChatRequest, CompletionRequest)
}


def used_parameters(request: InferenceRequest) -> dict[str, Any]:
    """Return the parameters of a request that the engine has to support.

    Returns:
        Values by field name in the order of the type, without those that are unset, only label
        the request, are implemented by the gateway, or have a default value.
    """
    neutral = request.NEUTRAL
    return {
        name: value
        for name in _ENGINE_FIELDS[type(request)]
        if (value := getattr(request, name)) is not None and value not in neutral.get(name, ())
    }
