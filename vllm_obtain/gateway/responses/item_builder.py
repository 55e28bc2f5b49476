"""Builds output items from events, and yields the stream events of each item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import UNSET

from vllm_obtain.gateway.responses import stream_types
from vllm_obtain.gateway.responses.encrypted_reasoning import seal
from vllm_obtain.gateway.responses.items import (
    FunctionCall,
    KeptItem,
    Message,
    OutputText,
    Reasoning,
    ReasoningText,
    Status,
    SummaryText,
)
from vllm_obtain.gateway.responses.logprobs import entries, short
from vllm_obtain.gateway.responses.stream_types import StreamEvent
from vllm_obtain.protocol.events import (
    Event,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)


class ItemBuilder(ABC):
    """Builds one item.

    Args:
        item: the new item.
        index: its index in `output`.
    """

    def __init__(self, item: KeptItem, index: int) -> None:
        item.fill_in()
        item.status = "in_progress"
        self.item = item
        self.texts: list[str] = []
        self.fields: dict[str, Any] = {"item_id": item.id, "output_index": index}
        self.index = index

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def begin(self) -> Iterator[StreamEvent]:
        """Yield the events of a new item."""
        yield stream_types.ItemAdded(output_index=self.index, item=self.item)

    def end(self, status: Status) -> Iterator[StreamEvent]:
        """Complete the item and yield its last events."""
        yield from self.close()
        self.item.status = status
        yield stream_types.ItemDone(output_index=self.index, item=self.item)

    @abstractmethod
    def close(self) -> Iterator[StreamEvent]:
        """Set the content of the item, and yield the events of complete parts."""


class MessageBuilder(ItemBuilder):
    """Builds a message."""

    def __init__(self, index: int) -> None:
        self.message = Message(role="assistant", content=[])
        self.logprobs: list[dict[str, Any]] = []
        super().__init__(self.message, index)

    def begin(self) -> Iterator[StreamEvent]:
        """Yield the events of a new item and its only part."""
        yield from super().begin()
        yield stream_types.PartAdded(**self.fields, part=OutputText(text=""))

    def add(self, text: str, logprobs: list[dict[str, Any]]) -> StreamEvent:
        self.texts.append(text)
        self.logprobs += logprobs
        return stream_types.TextDelta(**self.fields, delta=text, logprobs=short(logprobs))

    def close(self) -> Iterator[StreamEvent]:
        """Set the content of the item, and yield the events of complete parts."""
        part = OutputText(text=self.text, logprobs=self.logprobs)
        self.message.content = [part]
        yield stream_types.TextDone(**self.fields, text=part.text, logprobs=short(self.logprobs))
        yield stream_types.PartDone(**self.fields, part=part)


class ReasoningBuilder(ItemBuilder):
    """Builds a reasoning item, with the text as content or as summary.

    Args:
        index: its index in `output`.
        summary: whether the text is the summary.
        sealed: whether the item has `encrypted_content`.
    """

    def __init__(self, index: int, summary: bool, sealed: bool) -> None:
        self.reasoning = Reasoning()
        self._summary = summary
        self._sealed = sealed
        super().__init__(self.reasoning, index)

    def begin(self) -> Iterator[StreamEvent]:
        """Yield the events of a new item and its only part."""
        yield from super().begin()
        if self._summary:
            yield stream_types.SummaryAdded(**self.fields, part=SummaryText(""))
        else:
            yield stream_types.PartAdded(**self.fields, part=ReasoningText(""))

    def add(self, text: str) -> StreamEvent:
        self.texts.append(text)
        kind = stream_types.SummaryDelta if self._summary else stream_types.ThoughtDelta
        return kind(**self.fields, delta=text)

    def close(self) -> Iterator[StreamEvent]:
        """Set the content of the item, and yield the events of complete parts."""
        text = self.text
        if self._sealed:
            self.reasoning.encrypted_content = seal(text)
        if self._summary:
            summary = SummaryText(text)
            self.reasoning.summary = [summary]
            yield stream_types.SummaryTextDone(**self.fields, text=text)
            yield stream_types.SummaryDone(**self.fields, part=summary)
        else:
            part = ReasoningText(text)
            self.reasoning.content = [part]
            yield stream_types.ThoughtDone(**self.fields, text=text)
            yield stream_types.PartDone(**self.fields, part=part)


class FunctionCallBuilder(ItemBuilder):
    """Builds a function call.

    Args:
        index: its index in `output`.
        first: the first delta, which has the name and the id.
        namespaced: see `ResponsesRequest.namespaced`.
    """

    def __init__(
        self, index: int, first: ToolCallDelta, namespaced: Mapping[str, tuple[str, str]]
    ) -> None:
        self.number = first.number
        namespace, name = namespaced.get(first.name or "", (UNSET, first.name or ""))
        self.call = FunctionCall(
            call_id=first.id or "", name=name, arguments="", namespace=namespace
        )
        super().__init__(self.call, index)

    def add(self, arguments: str) -> StreamEvent:
        self.texts.append(arguments)
        return stream_types.ArgumentsDelta(**self.fields, delta=arguments)

    def close(self) -> Iterator[StreamEvent]:
        """Set the content of the item, and yield the events of complete parts."""
        self.call.arguments = self.text
        yield stream_types.ArgumentsDone(**self.fields, arguments=self.call.arguments)


class ResponseBuilder:
    """Builds the output items of one response.

    Args:
        summary: whether reasoning is returned as its summary.
        sealed: whether reasoning has `encrypted_content`.
        alternatives: number of alternative tokens in log probabilities.
        namespaced: see `ResponsesRequest.namespaced`.
    """

    def __init__(
        self,
        summary: bool = False,
        sealed: bool = False,
        alternatives: int = 0,
        namespaced: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        self._namespaced = namespaced or {}
        self._summary = summary
        self._sealed = sealed
        self._alternatives = alternatives
        self._open: ItemBuilder | None = None
        self.output: list[KeptItem] = []
        self.usage: Usage | None = None
        self.reason = ""

    def take(self, event: Event) -> Iterator[StreamEvent]:
        """Process an event of the generation, and yield stream events."""
        if isinstance(event, TextDelta):
            yield from self._text(event)
        elif isinstance(event, ReasoningDelta):
            yield from self._reasoning(event)
        elif isinstance(event, ToolCallDelta):
            yield from self._tool_call(event)
        elif isinstance(event, Finish):
            yield from self._finish(event)
        elif isinstance(event, Usage):
            self.usage = event

    def close(self, status: Status) -> Iterator[StreamEvent]:
        """Complete the open item, if any."""
        builder, self._open = self._open, None
        if builder is not None:
            yield from builder.end(status)

    def _text(self, event: TextDelta) -> Iterator[StreamEvent]:
        builder = self._open
        if not isinstance(builder, MessageBuilder):
            builder = MessageBuilder(len(self.output))
            yield from self._begin(builder)
        yield builder.add(event.text, entries(event.logprobs, self._alternatives))

    def _reasoning(self, event: ReasoningDelta) -> Iterator[StreamEvent]:
        builder = self._open
        if not isinstance(builder, ReasoningBuilder):
            builder = ReasoningBuilder(len(self.output), self._summary, self._sealed)
            yield from self._begin(builder)
        yield builder.add(event.text)

    def _tool_call(self, event: ToolCallDelta) -> Iterator[StreamEvent]:
        builder = self._open
        if not isinstance(builder, FunctionCallBuilder) or builder.number != event.number:
            builder = FunctionCallBuilder(len(self.output), event, self._namespaced)
            yield from self._begin(builder)
        if event.arguments:
            yield builder.add(event.arguments)

    def _finish(self, event: Finish) -> Iterator[StreamEvent]:
        self.reason = event.reason
        if not self.output:
            # Clients expect an item even for an empty completion.
            yield from self._begin(MessageBuilder(0))
        yield from self.close("incomplete" if event.reason == "length" else "completed")

    def _begin(self, builder: ItemBuilder) -> Iterator[StreamEvent]:
        yield from self.close("completed")
        self.output.append(builder.item)
        self._open = builder
        yield from builder.begin()
