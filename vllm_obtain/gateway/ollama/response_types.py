"""Response types of the Ollama API. Unset fields are omitted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET, Struct, UnsetType


def now() -> str:
    """Return the current time in the format of RFC 3339."""
    return moment(datetime.now(UTC))


def moment(at: datetime | float) -> str:
    """Format a time by RFC 3339.

    Args:
        at: a time in UTC, or seconds since 1970.
    """
    time = at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


class FunctionAnswer(Struct):
    """The function of a tool call."""

    index: int
    name: str
    arguments: dict[str, Any]


class CallAnswer(Struct):
    """A complete tool call."""

    id: str
    function: FunctionAnswer


class MessageAnswer(Struct):
    """The message of a chat response, or in a stream an addition to it."""

    role: str = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[CallAnswer] | UnsetType = UNSET


class Metrics(Struct):
    """Token counts and durations (nanoseconds) of a generation, set at its end."""

    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class ChatAnswer(Metrics, kw_only=True):
    """A response of /api/chat, or a line of its stream."""

    model: str
    created_at: str
    message: MessageAnswer
    done: bool = False
    done_reason: str | UnsetType = UNSET
    logprobs: list[dict[str, Any]] | UnsetType = UNSET


class GenerateAnswer(Metrics, kw_only=True):
    """A response of /api/generate, or a line of its stream."""

    model: str
    created_at: str
    response: str = ""
    thinking: str | UnsetType = UNSET
    done: bool = False
    done_reason: str | UnsetType = UNSET
    logprobs: list[dict[str, Any]] | UnsetType = UNSET


class EmbedAnswer(Struct):
    """The response of /api/embed, with normalized embeddings."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    prompt_eval_count: int


class EmbeddingAnswer(Struct):
    """The response of /api/embeddings, with the embedding of one text."""

    embedding: list[float]


class Details(Struct):
    """Details of a model's files."""

    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    parent_model: str = ""


class ListedModel(Struct, kw_only=True):
    """A model in the response of /api/tags."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class RunningModel(Struct, kw_only=True):
    """A model in the response of /api/ps."""

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int | UnsetType


class TagsAnswer(Struct):
    """The response of /api/tags."""

    models: list[ListedModel]


class RunningAnswer(Struct):
    """The response of /api/ps."""

    models: list[RunningModel]


class PullAnswer(Struct):
    """Progress of a download: the response of /api/pull, or a line of its stream."""

    status: str
    digest: str | UnsetType = UNSET
    total: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


class VersionAnswer(Struct):
    """The response of /api/version."""

    version: str


class ErrorAnswer(Struct):
    """An error in Ollama's format."""

    error: str


class ModelAnswer(Struct, kw_only=True):
    """The response of /api/show."""

    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str
