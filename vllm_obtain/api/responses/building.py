"""From events to items, one after the other: each says what its stream shall tell of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from vllm_obtain.api.responses import told
from vllm_obtain.api.responses.items import (
    FunctionCall,
    KeptItem,
    Message,
    OutputText,
    Reasoning,
    ReasoningText,
    Status,
    SummaryText,
)
from vllm_obtain.api.responses.logprobs import entries, short
from vllm_obtain.api.responses.thoughts import seal
from vllm_obtain.api.responses.told import Told
from vllm_obtain.protocol.events import Call, Delta, Event, Finish, Thought, Usage


class Draft(ABC):
    """An item that grows.

    Args:
        item: as it begins.
        index: its place in `output`.
    """

    def __init__(self, item: KeptItem, index: int) -> None:
        item.named()
        item.status = "in_progress"
        self.item = item
        self.texts: list[str] = []
        self.at: dict[str, Any] = {"item_id": item.id, "output_index": index}
        self.index = index

    @property
    def text(self) -> str:
        """All that was written so far."""
        return "".join(self.texts)

    def begin(self) -> Iterator[Told]:
        """Tell that it begins."""
        yield told.ItemAdded(output_index=self.index, item=self.item)

    def end(self, status: Status) -> Iterator[Told]:
        """Tell that nothing more will come."""
        yield from self.close()
        self.item.status = status
        yield told.ItemDone(output_index=self.index, item=self.item)

    @abstractmethod
    def close(self) -> Iterator[Told]:
        """Fill the item in, and tell what of it is whole."""


class MessageDraft(Draft):
    """An answer."""

    def __init__(self, index: int) -> None:
        self.message = Message(role="assistant", content=[])
        self.logprobs: list[dict[str, Any]] = []
        super().__init__(self.message, index)

    def begin(self) -> Iterator[Told]:
        """Tell that it begins; its only part does too."""
        yield from super().begin()
        yield told.PartAdded(**self.at, part=OutputText(text=""))

    def add(self, text: str, logprobs: list[dict[str, Any]]) -> Told:
        """Write more."""
        self.texts.append(text)
        self.logprobs += logprobs
        return told.TextDelta(**self.at, delta=text, logprobs=short(logprobs))

    def close(self) -> Iterator[Told]:
        """Fill the item in, and tell what of it is whole."""
        part = OutputText(text=self.text, logprobs=self.logprobs)
        self.message.content = [part]
        yield told.TextDone(**self.at, text=part.text, logprobs=short(self.logprobs))
        yield told.PartDone(**self.at, part=part)


class ReasoningDraft(Draft):
    """Reasoning, told as it is or as its own summary.

    Args:
        index: its place in `output`.
        summary: whether it is told as the summary.
        sealed: whether it comes in a form that can be sent back unread, too.
    """

    def __init__(self, index: int, summary: bool, sealed: bool) -> None:
        self.reasoning = Reasoning()
        self._summary = summary
        self._sealed = sealed
        super().__init__(self.reasoning, index)

    def begin(self) -> Iterator[Told]:
        """Tell that it begins; its only part does too."""
        yield from super().begin()
        if self._summary:
            yield told.SummaryAdded(**self.at, part=SummaryText(""))
        else:
            yield told.PartAdded(**self.at, part=ReasoningText(""))

    def add(self, text: str) -> Told:
        """Write more."""
        self.texts.append(text)
        kind = told.SummaryDelta if self._summary else told.ThoughtDelta
        return kind(**self.at, delta=text)

    def close(self) -> Iterator[Told]:
        """Fill the item in, and tell what of it is whole."""
        text = self.text
        if self._sealed:
            self.reasoning.encrypted_content = seal(text)
        if self._summary:
            summary = SummaryText(text)
            self.reasoning.summary = [summary]
            yield told.SummaryTextDone(**self.at, text=text)
            yield told.SummaryDone(**self.at, part=summary)
        else:
            part = ReasoningText(text)
            self.reasoning.content = [part]
            yield told.ThoughtDone(**self.at, text=text)
            yield told.PartDone(**self.at, part=part)


class CallDraft(Draft):
    """A function call.

    Args:
        index: its place in `output`.
        first: its first piece, which names it.
    """

    def __init__(self, index: int, first: Call) -> None:
        self.number = first.number
        self.call = FunctionCall(call_id=first.id or "", name=first.name or "", arguments="")
        super().__init__(self.call, index)

    def add(self, arguments: str) -> Told:
        """Write more."""
        self.texts.append(arguments)
        return told.ArgumentsDelta(**self.at, delta=arguments)

    def close(self) -> Iterator[Told]:
        """Fill the item in, and tell what of it is whole."""
        self.call.arguments = self.text
        yield told.ArgumentsDone(**self.at, arguments=self.call.arguments)


class Building:
    """The items of one answer.

    Args:
        summary: whether reasoning is told as its summary.
        sealed: whether it comes sealed, too.
        alternatives: how many other tokens log probabilities come with.
    """

    def __init__(self, summary: bool = False, sealed: bool = False, alternatives: int = 0) -> None:
        self._summary = summary
        self._sealed = sealed
        self._alternatives = alternatives
        self._open: Draft | None = None
        self.output: list[KeptItem] = []
        self.usage: Usage | None = None
        self.reason = ""

    def take(self, event: Event) -> Iterator[Told]:
        """Take what happened and tell it."""
        if isinstance(event, Delta):
            yield from self._text(event)
        elif isinstance(event, Thought):
            yield from self._thought(event)
        elif isinstance(event, Call):
            yield from self._call(event)
        elif isinstance(event, Finish):
            yield from self._finish(event)
        elif isinstance(event, Usage):
            self.usage = event

    def close(self, status: Status) -> Iterator[Told]:
        """End the item that is open, if one is."""
        draft, self._open = self._open, None
        if draft is not None:
            yield from draft.end(status)

    def _text(self, event: Delta) -> Iterator[Told]:
        draft = self._open
        if not isinstance(draft, MessageDraft):
            draft = MessageDraft(len(self.output))
            yield from self._begin(draft)
        yield draft.add(event.text, entries(event.logprobs, self._alternatives))

    def _thought(self, event: Thought) -> Iterator[Told]:
        draft = self._open
        if not isinstance(draft, ReasoningDraft):
            draft = ReasoningDraft(len(self.output), self._summary, self._sealed)
            yield from self._begin(draft)
        yield draft.add(event.text)

    def _call(self, event: Call) -> Iterator[Told]:
        draft = self._open
        if not isinstance(draft, CallDraft) or draft.number != event.number:
            draft = CallDraft(len(self.output), event)
            yield from self._begin(draft)
        if event.arguments:
            yield draft.add(event.arguments)

    def _finish(self, event: Finish) -> Iterator[Told]:
        self.reason = event.reason
        if not self.output:
            # An answer of no words is one all the same: clients look for it.
            yield from self._begin(MessageDraft(0))
        yield from self.close("incomplete" if event.reason == "length" else "completed")

    def _begin(self, draft: Draft) -> Iterator[Told]:
        yield from self.close("completed")
        self.output.append(draft.item)
        self._open = draft
        yield from draft.begin()
