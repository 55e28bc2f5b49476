"""Request types of the Ollama API. Unknown fields are rejected with a 400 that names them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from vllm_obtain.protocol.messages import MAX_MESSAGES, MAX_PARTS
from vllm_obtain.protocol.requests import Penalty, Positive, Probability, Seed, Stop, Token
from vllm_obtain.protocol.tools import MAX_TOOLS, Function

Level = Literal["low", "medium", "high", "max"]
Alternatives = Annotated[int, Meta(ge=0, le=20)]
# Seconds, or a duration such as "5m" or "1h30m".
KeepAlive = float | Annotated[str, Meta(max_length=64)]
Format = str | dict[str, Any]


class PullBody(Struct, forbid_unknown_fields=True):
    """The body of POST /api/pull."""

    model: str = ""
    name: str = ""
    insecure: bool = False
    stream: bool = True


class DeleteBody(Struct, forbid_unknown_fields=True):
    """The body of DELETE /api/delete."""

    model: str = ""
    name: str = ""


class CalledFunction(Struct, forbid_unknown_fields=True):
    """The function of a tool call; its arguments are an object, or a string as in OpenAI's API."""

    name: str
    arguments: dict[str, Any] | str | None = None
    index: int | None = None


class ToolCall(Struct, forbid_unknown_fields=True, rename={"kind": "type"}):
    """A tool call in an earlier message."""

    function: CalledFunction
    id: str | None = None
    kind: Literal["function"] = "function"


class Message(Struct, forbid_unknown_fields=True):
    """A message of any role."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: Annotated[list[str], Meta(max_length=MAX_PARTS)] | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MAX_PARTS)] | None = None
    tool_name: str | None = None
    # Of the tool, in older clients; of the author in messages of other roles, where it is ignored.
    name: str | None = None
    tool_call_id: str | None = None


class ToolBody(Struct, forbid_unknown_fields=True, rename={"kind": "type"}):
    """A function that the model may call."""

    function: Function
    kind: Literal["function"] = "function"


class Options(Struct, forbid_unknown_fields=True, kw_only=True):
    """Sampling parameters, limits and load options."""

    num_predict: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    top_p: Probability | None = None
    min_p: Probability | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None

    # Sampling methods that not all engines support.
    repeat_last_n: int | None = None
    penalize_newline: bool | None = None
    typical_p: float | None = None
    tfs_z: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None

    # Load options.
    num_ctx: Positive | None = None
    num_keep: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    draft_num_predict: int | None = None
    numa: bool | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    logits_all: bool | None = None
    vocab_only: bool | None = None
    embedding_only: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None


class GenerationFields(Struct, kw_only=True):
    """Fields that chat and generate requests have in common."""

    model: str
    stream: bool | None = None
    format: Format | None = None
    options: Options | None = None
    keep_alive: KeepAlive | None = None
    think: bool | Level | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None

    @property
    def wants_stream(self) -> bool:
        """Whether to stream the response, which is the default."""
        return self.stream is not False


class ChatBody(GenerationFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/chat."""

    messages: Annotated[list[Message], Meta(max_length=MAX_MESSAGES)] = []
    tools: Annotated[list[ToolBody], Meta(max_length=MAX_TOOLS)] | None = None


class GenerateBody(GenerationFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/generate."""

    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[Token] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class EmbedBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/embed."""

    model: str
    input: str | list[str]
    truncate: bool | None = None
    dimensions: Annotated[int, Meta(ge=0)] | None = None
    options: Options | None = None
    keep_alive: KeepAlive | None = None


class EmbeddingsBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/embeddings, an older route for one text."""

    model: str
    prompt: str = ""
    options: Options | None = None
    keep_alive: KeepAlive | None = None


class ShowBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/show."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None
