"""The items of conversations, in requests, responses and the response store."""

from __future__ import annotations

import secrets
from typing import Any, ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Struct, tag="input_text", forbid_unknown_fields=True, kw_only=True):
    """Text input."""

    text: str


class InputImage(Struct, tag="input_image", forbid_unknown_fields=True, kw_only=True):
    """Image input, as a data or http URL."""

    image_url: str | UnsetType = UNSET
    detail: Literal["low", "high", "auto", "original"] = "auto"
    file_id: str | UnsetType = UNSET


class OutputText(Struct, tag="output_text", forbid_unknown_fields=True, kw_only=True):
    """Text output."""

    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class Refusal(Struct, tag="refusal", forbid_unknown_fields=True, kw_only=True):
    """A refusal; clients may send one that another service generated."""

    refusal: str


Part = InputText | InputImage | OutputText | Refusal


class Item(Struct, forbid_unknown_fields=True, kw_only=True):
    """Fields of all items; a missing id is generated."""

    id: str | None = None
    status: Status | None = None

    prefix: ClassVar[str] = "item"

    def fill_in(self) -> None:
        """Set a missing id and status."""
        self.id = self.id or new_id(self.prefix)
        self.status = self.status or "completed"


class Message(Item, tag="message", kw_only=True):
    """A message."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    phase: Literal["commentary", "final_answer"] | UnsetType = UNSET

    prefix: ClassVar[str] = "msg"

    def fill_in(self) -> None:
        """Set a missing id and status, and wrap plain text in a part."""
        super().fill_in()
        if isinstance(self.content, str):
            kind = OutputText if self.role == "assistant" else InputText
            self.content = [kind(text=self.content)]


class FunctionCall(Item, tag="function_call", kw_only=True):
    """A tool call."""

    call_id: str
    name: str
    arguments: str
    namespace: str | UnsetType = UNSET

    prefix: ClassVar[str] = "fc"


class FunctionCallOutput(Item, tag="function_call_output", kw_only=True):
    """The result of a tool call."""

    call_id: str
    output: str | list[InputText | InputImage]

    prefix: ClassVar[str] = "fco"


class SummaryText(Struct, tag="summary_text", forbid_unknown_fields=True):
    """A part of a summary of the model's reasoning."""

    text: str


class ReasoningText(Struct, tag="reasoning_text", forbid_unknown_fields=True):
    """A part of the model's reasoning."""

    text: str


class Reasoning(Item, tag="reasoning", kw_only=True):
    """The reasoning of a response."""

    summary: list[SummaryText] = []
    content: list[ReasoningText] | UnsetType = UNSET
    encrypted_content: str | UnsetType = UNSET

    prefix: ClassVar[str] = "rs"


class ItemReference(Struct, tag="item_reference", forbid_unknown_fields=True, kw_only=True):
    """A reference to an item of a stored response."""

    id: str


GivenItem = Message | FunctionCall | FunctionCallOutput | Reasoning | ItemReference
KeptItem = Message | FunctionCall | FunctionCallOutput | Reasoning


def new_id(prefix: str) -> str:
    """Make a unique id."""
    return f"{prefix}_{secrets.token_hex(20)}"
