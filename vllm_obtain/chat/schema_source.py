"""Reads and writes JSON Schemas, whose depth is bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

# Levels of objects and arrays; the JSON parser of llguidance stops at 128.
MAX_DEPTH = 100
# Keywords whose value may be null.
NULLABLE = frozenset({"const", "default"})
# Keywords whose value is no schema.
VALUES = frozenset({"const", "default", "enum", "examples"})


class SchemaError(ValueError):
    """A schema cannot be enforced; the message ends without a full stop."""


def without_nulls(source: bytes) -> Any:
    """Decode a schema without the keywords whose value is null.

    Args:
        source: the schema as JSON.

    Raises:
        SchemaError: it is nested too deeply.
    """
    root = decode(source)
    has_nulls = isinstance(root, dict) and b"null" in source
    level: list[dict[str, Any] | list[Any]] = [root] if has_nulls else []
    while level:
        for value in level:
            if isinstance(value, dict):
                for name in [name for name, item in value.items() if item is None]:
                    if name not in NULLABLE:
                        del value[name]
        level = [
            child
            for value in level
            for name, child in pairs(value)
            if name not in VALUES and isinstance(child, dict | list)
        ]
    return root


def encode(schema: Any) -> bytes:
    """Encode a schema as JSON.

    Raises:
        SchemaError: it is nested too deeply.
    """
    try:
        return msgspec.json.encode(schema)
    except RecursionError:
        raise SchemaError(_too_deep()) from None


def _too_deep() -> str:
    return f"it has more than {MAX_DEPTH} levels of objects and arrays. Flatten it"


def decode(source: bytes) -> Any:
    """Decode a schema.

    Raises:
        SchemaError: it is nested too deeply.
    """
    try:
        root = msgspec.json.decode(source)
    except RecursionError:
        raise SchemaError(_too_deep()) from None
    level = [root] if isinstance(root, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [child for value in level for child in children(value)]
        if not level:
            return root
    raise SchemaError(_too_deep())


def pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    """The members of an object or a list, with their names or indices."""
    return value.items() if isinstance(value, dict) else enumerate(value)


def children(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    """The objects and lists in an object or a list."""
    return (child for _, child in pairs(value) if isinstance(child, dict | list))
