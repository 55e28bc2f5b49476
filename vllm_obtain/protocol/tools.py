"""What a request says about tools and about the form of its answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

# OpenAI's rule for the names of functions and schemas. Python's `$` allows a line break after it.
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}$(?!\n)")]
Schema = dict[str, Any]


class Function(Struct, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(Struct, tag="function", tag_field="type", forbid_unknown_fields=True):
    """A tool; functions are the only kind there is."""

    function: Function


class FunctionName(Struct, forbid_unknown_fields=True):
    """A function that is meant."""

    name: Name


class NamedTool(Struct, tag="function", tag_field="type", forbid_unknown_fields=True):
    """The one tool to call."""

    function: FunctionName


class Allowed(Struct, forbid_unknown_fields=True):
    """The tools out of all that may be called now."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1, max_length=128)]


class AllowedTools(Struct, tag="allowed_tools", tag_field="type", forbid_unknown_fields=True):
    """A choice among some of the tools."""

    allowed_tools: Allowed


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedTools


class TextFormat(Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    """An answer of any form."""


class ObjectFormat(Struct, tag="json_object", tag_field="type", forbid_unknown_fields=True):
    """An answer that is a JSON object."""


class NamedSchema(Struct, forbid_unknown_fields=True):
    """A schema with the name that the model is told."""

    name: Name
    schema: Schema | None = None
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(Struct, tag="json_schema", tag_field="type", forbid_unknown_fields=True):
    """An answer that is JSON of a schema."""

    json_schema: NamedSchema


ResponseFormat = TextFormat | ObjectFormat | SchemaFormat
