"""The answers that clients read: chat and text completions, whole and in chunks.

Shapes are those of OpenAI's API reference; reasoning goes out under both names in use.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from vllm_obtain.errors import ServiceError
from vllm_obtain.protocol.events import Usage


class PromptDetails(Struct):
    """Where prompt tokens came from."""

    cached_tokens: int = 0


class CompletionDetails(Struct):
    """What completion tokens were."""

    reasoning_tokens: int = 0


class UsageBody(Struct):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails

    @classmethod
    def of(cls, usage: Usage) -> UsageBody:
        """Shape the counts of a generation as OpenAI does."""
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details=PromptDetails(usage.cached_tokens),
            completion_tokens_details=CompletionDetails(usage.reasoning_tokens),
        )


class FunctionBody(Struct):
    """The function of a call; in a stream the name comes once and the arguments in pieces."""

    arguments: str
    name: str | UnsetType = UNSET


class CallBody(Struct, rename={"kind": "type"}):
    """A tool call."""

    id: str
    function: FunctionBody
    kind: str = "function"


class CallDelta(Struct, rename={"kind": "type"}):
    """A piece of a tool call in a stream; the first one names it."""

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
    """One answer of a chat completion."""

    index: int
    message: ChatMessage
    logprobs: Any
    finish_reason: str


class ChatCompletion(Struct):
    """The body of a plain chat answer."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    object: str = "chat.completion"
    system_fingerprint: str | None = None


class ChatDelta(Struct):
    """What a chunk adds to the message."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class ChunkChoice(Struct):
    """One answer within a chunk."""

    index: int
    delta: ChatDelta
    logprobs: Any = None
    finish_reason: str | None = None


class ChatChunk(Struct):
    """One event of a streamed chat answer."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageBody | UnsetType | None = UNSET
    object: str = "chat.completion.chunk"
    system_fingerprint: str | None = None


class TextChoice(Struct):
    """One answer of a text completion, whole or in a chunk."""

    index: int
    text: str
    logprobs: Any = None
    finish_reason: str | None = None


class TextCompletion(Struct):
    """The body of a plain text answer, and of each event of a streamed one."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody | UnsetType | None = UNSET
    object: str = "text_completion"
    system_fingerprint: str | None = None


def error_body(error: ServiceError) -> dict[str, dict[str, str | None]]:
    """Shape OpenAI's error object: always four keys.

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
