"""The answers that Ollama's clients read. Fields that have nothing to say are left out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET, Struct, UnsetType


def now() -> str:
    """This moment, as RFC 3339 writes it."""
    return moment(datetime.now(UTC))


def moment(at: datetime | float) -> str:
    """A time, as RFC 3339 writes it.

    Args:
        at: in UTC, or seconds since 1970.
    """
    when = at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


class FunctionAnswer(Struct):
    """The function of a call."""

    index: int
    name: str
    arguments: dict[str, Any]


class CallAnswer(Struct):
    """A tool call, always whole."""

    id: str
    function: FunctionAnswer


class MessageAnswer(Struct):
    """The message of a chat, or what a line adds to it."""

    role: str = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[CallAnswer] | UnsetType = UNSET


class Metrics(Struct):
    """What a generation took, at its end; durations in nanoseconds."""

    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class ChatAnswer(Metrics, kw_only=True):
    """An answer of /api/chat, or a line of one."""

    model: str
    created_at: str
    message: MessageAnswer
    done: bool = False
    done_reason: str | UnsetType = UNSET
    logprobs: list[dict[str, Any]] | UnsetType = UNSET


class GenerateAnswer(Metrics, kw_only=True):
    """An answer of /api/generate, or a line of one."""

    model: str
    created_at: str
    response: str = ""
    thinking: str | UnsetType = UNSET
    done: bool = False
    done_reason: str | UnsetType = UNSET
    logprobs: list[dict[str, Any]] | UnsetType = UNSET


class EmbedAnswer(Struct):
    """The answer of /api/embed; vectors have length 1."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    prompt_eval_count: int


class EmbeddingAnswer(Struct):
    """The answer of /api/embeddings: the vector of one text."""

    embedding: list[float]


class Details(Struct):
    """What kind of files a model is."""

    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    parent_model: str = ""


class ListedModel(Struct, kw_only=True):
    """A model of /api/tags."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class RunningModel(Struct, kw_only=True):
    """A model of /api/ps."""

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int | UnsetType


class TagsAnswer(Struct):
    """The answer of /api/tags."""

    models: list[ListedModel]


class RunningAnswer(Struct):
    """The answer of /api/ps."""

    models: list[RunningModel]


class PullAnswer(Struct):
    """How far a pull is: the answer of /api/pull, or a line of it."""

    status: str
    digest: str | UnsetType = UNSET
    total: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


class VersionAnswer(Struct):
    """The answer of /api/version."""

    version: str


class ErrorAnswer(Struct):
    """Every error of Ollama's routes: a sentence."""

    error: str


class ModelAnswer(Struct, kw_only=True):
    """The answer of /api/show."""

    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str
