"""The schemas of a request's tools, in the grammar of its tool calls and when they are complete.

The schema of a strict tool is a contract. Another one is a hint: the grammar loses what cannot be
enforced, and the arguments of complete calls are validated against the schema of the client.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_obtain.chat import grammar, grammar_checker, json_schema, schema_source
from vllm_obtain.chat.grammar_limits import MAX_ITEMS
from vllm_obtain.chat.json_schema import GrammarSchema, Level
from vllm_obtain.chat.schema_source import SchemaError
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.protocol.tools import Tool

# Bytes of the descriptions and parameters of all tools. Each MiB takes a worker 0.1 s.
_LARGEST_TOOLS = 2 * 1024 * 1024
# Schemas up to this size are cached: agents send the same tools with each request.
_LARGEST_CACHED = 16 * 1024
# Bytes of a schema, and of the arguments of one call, that are validated; and calls of a response.
_LARGEST_SCHEMA, _LARGEST_ARGUMENTS, _MOST_CALLS = 256 * 1024, 64 * 1024, 64

_enforce = functools.lru_cache(maxsize=128)(json_schema.enforce)
_loosen = functools.lru_cache(maxsize=128)(json_schema.loosen)
_without_nulls = functools.lru_cache(maxsize=128)(schema_source.without_nulls)


def described_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Convert tools to the format of templates, without fields and keywords that are null.

    Raises:
        InvalidRequest: they are too large, or their parameters are nested too deeply.
    """
    described, size = [], 0
    for tool in tools:
        function = tool.function
        description = function.description or ""
        size += len(description)
        source = b""
        if function.parameters is not None and size <= _LARGEST_TOOLS:
            source = _encoded(tool)
            size += len(source)
        if size > _LARGEST_TOOLS:
            raise InvalidRequest(
                "Invalid 'tools': the descriptions and parameters of all tools have more than "
                f"{_LARGEST_TOOLS:,} bytes. Send fewer or smaller tools.",
                param="tools",
            )
        fields: dict[str, Any] = {"name": function.name}
        if function.description is not None:
            fields["description"] = description
        if function.parameters is not None:
            fields["parameters"] = _parameters(tool, source)
        described.append({"type": "function", "function": fields})
    return described


def _encoded(tool: Tool) -> bytes:
    try:
        return schema_source.encode(tool.function.parameters)
    except SchemaError as error:
        raise _invalid(tool, error) from None


def _parameters(tool: Tool, source: bytes) -> Any:
    """Return the parameters of a tool, without keywords that are null.

    Args:
        tool: the tool.
        source: its encoded parameters.
    """
    try:
        read = _without_nulls if _is_cacheable(source) else schema_source.without_nulls
        return read(source)
    except SchemaError as error:
        raise _invalid(tool, error) from None


class ArgumentCheck:
    """Validates the arguments of complete tool calls.

    Args:
        schemas: the full schemas, by the name of the tool; calls of others are not validated.
    """

    def __init__(self, schemas: Mapping[str, bytes]) -> None:
        self._schemas = schemas
        self._calls: list[tuple[str, str]] = []

    def clear(self) -> None:
        """Forget the calls of an attempt that failed."""
        self._calls = []

    def add(self, name: str, arguments: str) -> None:
        """Keep a complete call, unless it or the number of calls is too large."""
        if (
            name in self._schemas
            and len(arguments) <= _LARGEST_ARGUMENTS
            and len(self._calls) < _MOST_CALLS
        ):
            self._calls.append((name, arguments))

    def violations(self) -> tuple[str, ...]:
        """Validate the calls in another process.

        Returns:
            The violated keywords of each call. A call that cannot be validated has none.
        """
        found: list[str] = []
        for name, arguments in self._calls:
            found += grammar_checker.violations(self._schemas[name], arguments) or ()
        return tuple(found)


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """The grammar of a completion with tool calls.

    Args:
        text: the grammar.
        unenforced: what it does not enforce: names of tools with a JSON pointer into their schema.
        check: validates calls of those tools; None if everything is enforced.
    """

    text: str
    unenforced: tuple[str, ...] = ()
    check: ArgumentCheck | None = None


def build_grammar(
    tools: Sequence[Tool], control: frozenset[str], build: Callable[[list[dict[str, Any]]], str]
) -> CallGrammar:
    """Build a grammar for calls of tools that engines can enforce.

    Args:
        tools: tools that the model may call.
        control: the model's special tokens.
        build: builds the grammar of functions, each with a name and `parameters`.

    Raises:
        InvalidRequest: a schema is invalid, or a strict one cannot be enforced.
    """
    sources = [_encoded(tool) for tool in tools]
    grammar.check_size(sum(map(len, sources)), "tools")
    entries = [_Entry(tool, source) for tool, source in zip(tools, sources, strict=True)]
    for entry in entries:
        grammar.check_is_text(grammar.of_schema(entry.used.schema), "tools", control)
        grammar.check_is_text(entry.name, "tools", control)
    text = build([entry.function for entry in entries])
    while problem := _problem(text, entries):
        hints = [entry for entry in entries if entry.can_loosen]
        if not hints:
            raise grammar.unsupported("tools", problem)
        for entry in [entry for entry in hints if entry.has_problem] or hints:
            entry.loosen()
        text = build([entry.function for entry in entries])
    unenforced = [f"{entry.name}#{path}" for entry in entries for path in entry.used.removed]
    schemas = {entry.name: entry.source for entry in entries if entry.used.removed}
    small = {name: full for name, full in schemas.items() if len(full) <= _LARGEST_SCHEMA}
    return CallGrammar(text, tuple(unenforced), ArgumentCheck(small) if unenforced else None)


class _Entry:
    """A tool and its schema in the grammar.

    Args:
        tool: the tool.
        source: its encoded parameters.
    """

    def __init__(self, tool: Tool, source: bytes) -> None:
        self.name = tool.function.name
        self._level = None if tool.function.strict else Level.SUPPORTED
        # Without parameters, the arguments are {}.
        parameters = _parameters(tool, source) or {"properties": {}}
        kind = parameters.get("type", "object")
        if kind != "object" and not (isinstance(kind, list) and "object" in kind):
            raise InvalidRequest(
                f"Invalid 'tools': the parameters of '{self.name}' must have the type object.",
                param="tools",
            )
        self.source = schema_source.encode({**parameters, "type": "object"})
        try:
            self.used = self._read()
        except SchemaError as error:
            raise _invalid(tool, error) from None

    @property
    def function(self) -> dict[str, Any]:
        """The function for the grammar."""
        return {"name": self.name, "parameters": self.used.schema}

    @property
    def can_loosen(self) -> bool:
        """Whether the schema is a hint that can lose more."""
        return self._level is not None and self._level < Level.NONE

    @property
    def has_problem(self) -> bool:
        """Whether the schema alone cannot be enforced."""
        return bool(grammar_checker.problem(grammar.of_schema(self.used.schema)))

    def loosen(self) -> None:
        """Keep less of the schema."""
        assert self._level is not None  # noqa: S101 - it is a hint
        self._level = Level(self._level + 1)
        self.used = self._read()

    def _read(self) -> GrammarSchema:
        is_cacheable = _is_cacheable(self.source)
        if self._level is None:
            return (_enforce if is_cacheable else json_schema.enforce)(self.source)
        return (_loosen if is_cacheable else json_schema.loosen)(self.source, self._level)


def _problem(text: str, entries: Sequence[_Entry]) -> str:
    grammar.check_size(len(text), "tools")
    items = sum(entry.used.items for entry in entries)
    if items > MAX_ITEMS:
        return (
            f"the arrays of all tools have {items:,} items together; at most "
            f"{MAX_ITEMS:,} are supported. Lower 'maxItems'"
        )
    problem = grammar_checker.problem(text)
    return problem and f"no engine can enforce it: {problem}"


def _is_cacheable(source: bytes) -> bool:
    return len(source) <= _LARGEST_CACHED


def _invalid(tool: Tool, error: SchemaError) -> InvalidRequest:
    return grammar.unsupported("tools", f"in the parameters of '{tool.function.name}', {error}")
