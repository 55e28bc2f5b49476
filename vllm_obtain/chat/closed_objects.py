"""Closes the objects of a schema that list their properties.

JSON Schema allows further properties unless `additionalProperties` is false, and few schemas set
it. Small models then write properties of their own until `max_tokens`. An object that lists its
properties is closed; `{"type": "object"}` alone, or with `additionalProperties` or patterns, is
left as it is. Subschemas that apply to the same object (`allOf`, `$ref` with siblings, and so on)
are closed together: the object gets the names of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from vllm_obtain.chat.schema_keywords import LISTS, MAPS, ONE

# Keywords with which the client itself decides about further properties.
_DECIDED = ("additionalProperties", "patternProperties", "propertyNames", "unevaluatedProperties")
# Keywords whose subschemas apply to the same value, and of which one may apply.
_ALL, _SOME = ("allOf",), ("anyOf", "oneOf")
_NESTED = ("if", "then", "else", "not")
# The most subschemas that are merged, all objects together; further objects stay open.
_MOST_MERGED = 20_000

# Returns the target of a local reference, or None.
Target = Callable[[str], Any]
Schema = dict[str, Any]


def close(root: Any, target: Target) -> None:
    """Close the objects of a schema, which is changed.

    Args:
        root: the schema.
        target: resolves its references.
    """
    if not isinstance(root, dict):
        return
    schemas = list(_schemas(root))
    parts = _parts_of_others(schemas, target)
    budget = _MOST_MERGED
    closed: list[tuple[Schema, dict[str, None]]] = []
    for schema in schemas:
        if id(schema) in parts or not any(name in schema for name in ("properties", "allOf")):
            continue
        names, count = _merged(schema, target, budget)
        budget -= count
        if names is not None:
            closed.append((schema, names))
    for schema, names in closed:
        own = schema.get("properties") or {}
        if isinstance(own, dict):  # otherwise the schema is invalid, which others report
            schema["properties"] = own | {name: True for name in names if name not in own}
            schema["additionalProperties"] = False


def _schemas(root: Schema) -> Iterator[Schema]:
    """All subschemas of a schema, and the schema itself."""
    open_: list[Any] = [root]
    while open_:
        schema = open_.pop()
        if not isinstance(schema, dict):
            continue
        yield schema
        for name in (*ONE, *_NESTED, "items"):
            open_.append(schema.get(name))
        for name in (*LISTS, "items"):
            open_ += _list(schema.get(name))
        for name in (*MAPS, "dependentSchemas"):
            group = schema.get(name)
            open_ += group.values() if isinstance(group, dict) else ()


def _parts_of_others(schemas: list[Schema], target: Target) -> set[int]:
    """The ids of the subschemas that describe only a part of an object."""
    found: set[int] = set()
    open_: list[Any] = []
    for schema in schemas:
        has_siblings = any(schema.get(name) for name in ("properties", "allOf"))
        is_merged = has_siblings or ("$ref" in schema and any(name in schema for name in _SOME))
        open_ += _together(schema, target, is_merged)
    while open_:
        schema = open_.pop()
        if isinstance(schema, dict) and id(schema) not in found:
            found.add(id(schema))
            open_ += _together(schema, target, is_merged=True)
    return found


def _together(schema: Schema, target: Target, is_merged: bool) -> Iterator[Any]:
    """The subschemas that apply to the same value as a schema.

    Args:
        schema: the schema.
        target: resolves references.
        is_merged: whether alternatives and the target of `$ref` describe only a part of it.
    """
    for name in (*_ALL, *(_SOME if is_merged else ())):
        yield from _list(schema.get(name))
    for name in _NESTED:
        yield schema.get(name)
    dependent = schema.get("dependentSchemas")
    yield from dependent.values() if isinstance(dependent, dict) else ()
    if is_merged and isinstance(schema.get("$ref"), str):
        yield target(schema["$ref"])


def _merged(schema: Schema, target: Target, limit: int) -> tuple[dict[str, None] | None, int]:
    """Merge the properties of a schema and of all that apply to the same object.

    Args:
        schema: the schema.
        target: resolves references.
        limit: the most subschemas and properties to visit.

    Returns:
        The names in order, None if further properties are allowed; and the number of visits.
    """
    names: dict[str, None] = {}
    open_: list[Any] = [schema]
    seen: set[int] = set()
    count, is_listed = 0, False
    while open_ and count <= limit:
        part = open_.pop()
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        count += 1
        if any(part.get(name) is not None for name in _DECIDED):
            return None, count
        properties = part.get("properties")
        if isinstance(properties, dict):
            is_listed = True
            count += len(properties)
            names.update(dict.fromkeys(properties))
        # A required property need not be listed.
        names.update((name, None) for name in _list(part.get("required")) if isinstance(name, str))
        open_ += _together(part, target, is_merged=True)
    return names if is_listed and count <= limit else None, count


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
