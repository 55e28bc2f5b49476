"""The items that conversations are made of: sent in, given out, kept in between."""

from __future__ import annotations

import secrets
from typing import Any, ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Struct, tag="input_text", forbid_unknown_fields=True, kw_only=True):
    """A piece of text to the model."""

    text: str


class InputImage(Struct, tag="input_image", forbid_unknown_fields=True, kw_only=True):
    """An image to the model, as a data or http URL."""

    image_url: str | UnsetType = UNSET
    detail: Literal["low", "high", "auto", "original"] = "auto"
    file_id: str | UnsetType = UNSET


class OutputText(Struct, tag="output_text", forbid_unknown_fields=True, kw_only=True):
    """A piece of text from the model."""

    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class Refusal(Struct, tag="refusal", forbid_unknown_fields=True, kw_only=True):
    """What a model said instead of an answer; sent by clients that have it from elsewhere."""

    refusal: str


Part = InputText | InputImage | OutputText | Refusal


class Item(Struct, forbid_unknown_fields=True, kw_only=True):
    """What all items have; one that comes without an id is given one."""

    id: str | None = None
    status: Status | None = None

    prefix: ClassVar[str] = "item"

    def named(self) -> None:
        """Fill in what items have that were taken in."""
        self.id = self.id or new_id(self.prefix)
        self.status = self.status or "completed"


class Message(Item, tag="message", kw_only=True):
    """What somebody said."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    phase: Literal["commentary", "final_answer"] | UnsetType = UNSET

    prefix: ClassVar[str] = "msg"

    def named(self) -> None:
        """Fill in what items have that were taken in; a plain text becomes a part."""
        super().named()
        if isinstance(self.content, str):
            kind = OutputText if self.role == "assistant" else InputText
            self.content = [kind(text=self.content)]


class FunctionCall(Item, tag="function_call", kw_only=True):
    """A call of a function by the model."""

    call_id: str
    name: str
    arguments: str

    prefix: ClassVar[str] = "fc"


class FunctionCallOutput(Item, tag="function_call_output", kw_only=True):
    """What a call came to."""

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
    """What the model thought before it answered."""

    summary: list[SummaryText] = []
    content: list[ReasoningText] | UnsetType = UNSET
    encrypted_content: str | UnsetType = UNSET

    prefix: ClassVar[str] = "rs"


class ItemReference(Struct, tag="item_reference", forbid_unknown_fields=True, kw_only=True):
    """An item of a kept response, by its id."""

    id: str


GivenItem = Message | FunctionCall | FunctionCallOutput | Reasoning | ItemReference
KeptItem = Message | FunctionCall | FunctionCallOutput | Reasoning


def new_id(prefix: str) -> str:
    """Make an id that nothing else has."""
    return f"{prefix}_{secrets.token_hex(20)}"
