"""Response bodies of chat and text completions, complete and as stream chunks.

The formats are those of OpenAI's API reference; reasoning has both names in use.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from vllm_obtain.errors import ServiceError
from vllm_obtain.protocol.events import Usage


class PromptDetails(Struct):
    """Details of the prompt tokens."""

    cached_tokens: int = 0


class CompletionDetails(Struct):
    """Details of the completion tokens."""

    reasoning_tokens: int = 0


class UsageBody(Struct):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails

    @classmethod
    def of(cls, usage: Usage) -> UsageBody:
        """Convert the token counts of a generation to OpenAI's format."""
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details=PromptDetails(usage.cached_tokens),
            completion_tokens_details=CompletionDetails(usage.reasoning_tokens),
        )


class FunctionBody(Struct):
    """The function of a tool call; in a stream, the name comes first and then the arguments."""

    arguments: str
    name: str | UnsetType = UNSET


class CallBody(Struct, rename={"kind": "type"}):
    """A tool call."""

    id: str
    function: FunctionBody
    kind: str = "function"


class CallDelta(Struct, rename={"kind": "type"}):
    """A part of a tool call in a stream; the first one has id and name."""

    index: int
    function: FunctionBody
    id: str | UnsetType = UNSET
    kind: str | UnsetType = UNSET


class ChatMessage(Struct):
    """The assistant's message."""

    role: str
    content: str | None
    refusal: None = None
    tool_calls: list[CallBody] | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class ChatChoice(Struct):
    """One choice of a chat completion."""

    index: int
    message: ChatMessage
    logprobs: Any
    finish_reason: str


class ChatCompletion(Struct):
    """The body of a chat completion that is not streamed."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    object: str = "chat.completion"
    system_fingerprint: str | None = None


class ChatDelta(Struct):
    """The part of the message that a chunk adds."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class ChunkChoice(Struct):
    """One choice within a chunk."""

    index: int
    delta: ChatDelta
    logprobs: Any = None
    finish_reason: str | None = None


class ChatChunk(Struct):
    """One event of a streamed chat completion."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageBody | UnsetType | None = UNSET
    object: str = "chat.completion.chunk"
    system_fingerprint: str | None = None


class TextChoice(Struct):
    """One choice of a text completion, complete or in a chunk."""

    index: int
    text: str
    logprobs: Any = None
    finish_reason: str | None = None


class TextCompletion(Struct):
    """The body of a text completion, and of each event of a streamed one."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody | UnsetType | None = UNSET
    object: str = "text_completion"
    system_fingerprint: str | None = None


def error_body(error: ServiceError) -> dict[str, dict[str, str | None]]:
    """Return an error in OpenAI's format, which always has four keys.

    Source: https://platform.openai.com/docs/guides/error-codes
    """
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }
