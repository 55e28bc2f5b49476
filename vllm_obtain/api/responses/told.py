"""The events of a streamed response."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from vllm_obtain.api.responses.items import KeptItem, OutputText, ReasoningText, SummaryText
from vllm_obtain.api.responses.shapes import ResponseBody


class Told(Struct, kw_only=True, tag_field="type"):
    """An event of a stream. The renderer numbers it."""

    sequence_number: int = 0


class Created(Told, tag="response.created"):
    """The response has an id."""

    response: ResponseBody


class InProgress(Told, tag="response.in_progress"):
    """It is worked on."""

    response: ResponseBody


class Completed(Told, tag="response.completed"):
    """It is whole."""

    response: ResponseBody


class IncompleteEvent(Told, tag="response.incomplete"):
    """It was cut off."""

    response: ResponseBody


class Failed(Told, tag="response.failed"):
    """It broke off."""

    response: ResponseBody


class ErrorEvent(Told, tag="error"):
    """There will be no response."""

    code: str | None
    message: str
    param: str | None


class ItemAdded(Told, tag="response.output_item.added"):
    """An item begins."""

    output_index: int
    item: KeptItem


class ItemDone(Told, tag="response.output_item.done"):
    """An item is whole, or as whole as it will be."""

    output_index: int
    item: KeptItem


class Inside(Told, kw_only=True):
    """An event within an item."""

    item_id: str
    output_index: int


class PartAdded(Inside, tag="response.content_part.added"):
    """A part of an item begins."""

    part: OutputText | ReasoningText
    content_index: int = 0


class PartDone(Inside, tag="response.content_part.done"):
    """A part of an item is whole."""

    part: OutputText | ReasoningText
    content_index: int = 0


class TextDelta(Inside, tag="response.output_text.delta"):
    """More text of the answer."""

    delta: str
    logprobs: list[Any]
    content_index: int = 0


class TextDone(Inside, tag="response.output_text.done"):
    """The text of the answer."""

    text: str
    logprobs: list[Any]
    content_index: int = 0


class ThoughtDelta(Inside, tag="response.reasoning_text.delta"):
    """More reasoning."""

    delta: str
    content_index: int = 0


class ThoughtDone(Inside, tag="response.reasoning_text.done"):
    """The reasoning."""

    text: str
    content_index: int = 0


class SummaryAdded(Inside, tag="response.reasoning_summary_part.added"):
    """A summary of the reasoning begins."""

    part: SummaryText
    summary_index: int = 0


class SummaryDone(Inside, tag="response.reasoning_summary_part.done"):
    """The summary of the reasoning is whole."""

    part: SummaryText
    summary_index: int = 0


class SummaryDelta(Inside, tag="response.reasoning_summary_text.delta"):
    """More of the summary."""

    delta: str
    summary_index: int = 0


class SummaryTextDone(Inside, tag="response.reasoning_summary_text.done"):
    """The text of the summary."""

    text: str
    summary_index: int = 0


class ArgumentsDelta(Inside, tag="response.function_call_arguments.delta"):
    """More of the arguments of a call."""

    delta: str


class ArgumentsDone(Inside, tag="response.function_call_arguments.done"):
    """The arguments of a call."""

    arguments: str
