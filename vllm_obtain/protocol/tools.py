"""Tools and response formats of a request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

# OpenAI's pattern for names. Python's `$` also matches before a final line break.
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}$(?!\n)")]
Schema = dict[str, Any]

# OpenAI allows 128 tools; agents with several MCP servers send more.
MAX_TOOLS = 1_024


class Function(Struct, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(Struct, tag="function", tag_field="type", forbid_unknown_fields=True):
    """A tool. Only functions are supported."""

    function: Function


class FunctionName(Struct, forbid_unknown_fields=True):
    """The name of a function."""

    name: Name


class NamedTool(Struct, tag="function", tag_field="type", forbid_unknown_fields=True):
    """A choice of one tool that must be called."""

    function: FunctionName


class Allowed(Struct, forbid_unknown_fields=True):
    """The subset of tools that may be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1, max_length=MAX_TOOLS)]


class AllowedTools(Struct, tag="allowed_tools", tag_field="type", forbid_unknown_fields=True):
    """A choice among a subset of the tools."""

    allowed_tools: Allowed


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedTools


class TextFormat(Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    """Unconstrained text."""


class ObjectFormat(Struct, tag="json_object", tag_field="type", forbid_unknown_fields=True):
    """A JSON object."""


class NamedSchema(Struct, forbid_unknown_fields=True):
    """A JSON Schema with a name."""

    name: Name
    schema: Schema | None = None
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(Struct, tag="json_schema", tag_field="type", forbid_unknown_fields=True):
    """JSON that matches a schema."""

    json_schema: NamedSchema


ResponseFormat = TextFormat | ObjectFormat | SchemaFormat
