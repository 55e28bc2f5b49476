"""The events of a streamed response."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from vllm_obtain.gateway.responses.items import KeptItem, OutputText, ReasoningText, SummaryText
from vllm_obtain.gateway.responses.response_types import ResponseBody


class StreamEvent(Struct, kw_only=True, tag_field="type"):
    """An event of a stream. The renderer numbers it."""

    sequence_number: int = 0


class Created(StreamEvent, tag="response.created"):
    """The response was created."""

    response: ResponseBody


class InProgress(StreamEvent, tag="response.in_progress"):
    """The response is in progress."""

    response: ResponseBody


class Completed(StreamEvent, tag="response.completed"):
    """The response is complete."""

    response: ResponseBody


class IncompleteEvent(StreamEvent, tag="response.incomplete"):
    """The response was truncated."""

    response: ResponseBody


class Failed(StreamEvent, tag="response.failed"):
    """The response failed."""

    response: ResponseBody


class ErrorEvent(StreamEvent, tag="error"):
    """The request failed before the response was created."""

    code: str | None
    message: str
    param: str | None


class ItemAdded(StreamEvent, tag="response.output_item.added"):
    """An output item was added."""

    output_index: int
    item: KeptItem


class ItemDone(StreamEvent, tag="response.output_item.done"):
    """An output item is complete or was truncated."""

    output_index: int
    item: KeptItem


class ItemEvent(StreamEvent, kw_only=True):
    """An event within an item."""

    item_id: str
    output_index: int


class PartAdded(ItemEvent, tag="response.content_part.added"):
    """A content part was added."""

    part: OutputText | ReasoningText
    content_index: int = 0


class PartDone(ItemEvent, tag="response.content_part.done"):
    """A content part is complete."""

    part: OutputText | ReasoningText
    content_index: int = 0


class TextDelta(ItemEvent, tag="response.output_text.delta"):
    """A text delta."""

    delta: str
    logprobs: list[Any]
    content_index: int = 0


class TextDone(ItemEvent, tag="response.output_text.done"):
    """The complete text."""

    text: str
    logprobs: list[Any]
    content_index: int = 0


class ThoughtDelta(ItemEvent, tag="response.reasoning_text.delta"):
    """A reasoning delta."""

    delta: str
    content_index: int = 0


class ThoughtDone(ItemEvent, tag="response.reasoning_text.done"):
    """The complete reasoning."""

    text: str
    content_index: int = 0


class SummaryAdded(ItemEvent, tag="response.reasoning_summary_part.added"):
    """A reasoning summary part was added."""

    part: SummaryText
    summary_index: int = 0


class SummaryDone(ItemEvent, tag="response.reasoning_summary_part.done"):
    """A reasoning summary part is complete."""

    part: SummaryText
    summary_index: int = 0


class SummaryDelta(ItemEvent, tag="response.reasoning_summary_text.delta"):
    """A reasoning summary delta."""

    delta: str
    summary_index: int = 0


class SummaryTextDone(ItemEvent, tag="response.reasoning_summary_text.done"):
    """The complete reasoning summary."""

    text: str
    summary_index: int = 0


class ArgumentsDelta(ItemEvent, tag="response.function_call_arguments.delta"):
    """A delta of tool-call arguments."""

    delta: str


class ArgumentsDone(ItemEvent, tag="response.function_call_arguments.done"):
    """The complete tool-call arguments."""

    arguments: str
