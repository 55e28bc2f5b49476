"""Chat messages as clients send them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

# Limits of a request, above what agents send after weeks. They bound the work for one request.
MAX_MESSAGES = 20_000
# Parts, tool calls or images of one message.
MAX_PARTS = 2_000


class TextPart(Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    """A text part of a message."""

    text: str


class ImageURL(Struct, forbid_unknown_fields=True):
    """The URL of an image: a data or http(s) URL."""

    url: str
    detail: str = "auto"


class ImagePart(Struct, tag="image_url", tag_field="type", forbid_unknown_fields=True, dict=True):
    """An image in a message, for vision models."""

    image_url: ImageURL

    @classmethod
    def placed(cls, url: str, where: str, detail: str = "auto") -> ImagePart:
        """Create a part from an image in another API's format.

        Args:
            url: a data or http URL.
            where: the field of the client's body that has it, for errors.
            detail: as in OpenAI's API.
        """
        part = cls(ImageURL(url, detail))
        # Not a field: it is not part of OpenAI's format and does not affect the completion.
        vars(part)["where"] = where
        return part

    @property
    def where(self) -> str | None:
        """The field of the client's body, if it differs from the part's position."""
        return vars(self).get("where")


class CalledFunction(Struct, forbid_unknown_fields=True):
    """The function of a tool call; its arguments are a JSON object, or a string that holds one."""

    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCall(Struct, forbid_unknown_fields=True, rename={"kind": "type"}):
    """An earlier tool call of the model. `index` is accepted because streams add it."""

    id: str
    function: CalledFunction
    kind: Literal["function"] | None = "function"
    index: int | None = None


Content = str | Annotated[list[TextPart | ImagePart], Meta(min_length=1, max_length=MAX_PARTS)]


class SystemMessage(Struct, tag="system", tag_field="role", forbid_unknown_fields=True):
    """Instructions from the application."""

    content: Content
    name: str | None = None


class DeveloperMessage(Struct, tag="developer", tag_field="role", forbid_unknown_fields=True):
    """OpenAI's newer name for a system message; templates get the role `system`."""

    content: Content
    name: str | None = None


class UserMessage(Struct, tag="user", tag_field="role", forbid_unknown_fields=True):
    """A message of the user."""

    content: Content
    name: str | None = None


class AssistantMessage(Struct, tag="assistant", tag_field="role", forbid_unknown_fields=True):
    """An earlier message of the model.

    Clients send responses back unchanged, so the fields of a response are accepted here, also
    those that the `openai` SDK adds. Annotations do not change the prompt.
    """

    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MAX_PARTS)] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    annotations: Any = None
    audio: None = None
    function_call: None = None

    def __post_init__(self) -> None:
        """Accept reasoning under either of its two names."""
        self.reasoning_content = self.reasoning_content or self.reasoning


class ToolMessage(Struct, tag="tool", tag_field="role", forbid_unknown_fields=True):
    """The result of a tool call."""

    content: str | Annotated[list[TextPart | ImagePart], Meta(max_length=MAX_PARTS)] | None
    tool_call_id: str
    name: str | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


def images_in(messages: Sequence[Message]) -> list[tuple[ImagePart, str]]:
    """Return the images of a chat in order, each with the name of its field."""
    return [
        (part, part.where or f"messages[{index}].content[{number}].image_url")
        for index, message in enumerate(messages)
        if isinstance(message.content, list)
        for number, part in enumerate(message.content)
        if isinstance(part, ImagePart)
    ]
