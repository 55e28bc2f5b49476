"""The messages of a conversation, as clients send them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct


class TextPart(Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    """A piece of text in a message."""

    text: str


class ImageURL(Struct, forbid_unknown_fields=True):
    """Where an image is, as a data or http URL."""

    url: str
    detail: str = "auto"


class ImagePart(Struct, tag="image_url", tag_field="type", forbid_unknown_fields=True, dict=True):
    """An image in a message, for models that can see."""

    image_url: ImageURL

    @classmethod
    def placed(cls, url: str, where: str, detail: str = "auto") -> ImagePart:
        """Make one of what another API calls an image.

        Args:
            url: a data or http URL.
            where: the field of the client's body that has it, for errors.
            detail: as in OpenAI's API.
        """
        part = cls(ImageURL(url, detail))
        # No field: a client's part has none, and it says nothing about what is asked.
        vars(part)["where"] = where
        return part

    @property
    def where(self) -> str | None:
        """The field of the client's body, if it is not where the part stands."""
        return vars(self).get("where")


class CalledFunction(Struct, forbid_unknown_fields=True):
    """The function of a call; its arguments are a text that should hold a JSON object."""

    name: str
    arguments: str = "{}"


class ToolCall(Struct, forbid_unknown_fields=True, rename={"kind": "type"}):
    """A call that the model made before. `index` is what streams add to it."""

    id: str
    function: CalledFunction
    kind: Literal["function"] = "function"
    index: int | None = None


Content = str | Annotated[list[TextPart | ImagePart], Meta(min_length=1)]


class SystemMessage(Struct, tag="system", tag_field="role", forbid_unknown_fields=True):
    """Instructions from the application."""

    content: Content
    name: str | None = None


class DeveloperMessage(Struct, tag="developer", tag_field="role", forbid_unknown_fields=True):
    """OpenAI's newer name for a system message; templates know it as `system`."""

    content: Content
    name: str | None = None


class UserMessage(Struct, tag="user", tag_field="role", forbid_unknown_fields=True):
    """What the user said."""

    content: Content
    name: str | None = None


class AssistantMessage(Struct, tag="assistant", tag_field="role", forbid_unknown_fields=True):
    """What the model said before.

    Clients send back what they were given, so the fields of an answer are accepted here.
    """

    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    def __post_init__(self) -> None:
        """Take reasoning under either of its two names."""
        self.reasoning_content = self.reasoning_content or self.reasoning


class ToolMessage(Struct, tag="tool", tag_field="role", forbid_unknown_fields=True):
    """What a tool came to."""

    content: Content
    tool_call_id: str
    name: str | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


def images_in(messages: Sequence[Message]) -> list[tuple[ImagePart, str]]:
    """The images of a conversation, in order, each with the name of the field that has it."""
    return [
        (part, part.where or f"messages[{index}].content[{number}].image_url")
        for index, message in enumerate(messages)
        if isinstance(message.content, list)
        for number, part in enumerate(message.content)
        if isinstance(part, ImagePart)
    ]
