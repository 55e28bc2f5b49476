"""The description as a test reads it: an answer must not hold what it does not tell of."""

from __future__ import annotations

import copy
from typing import Any


def strict(description: dict[str, Any]) -> dict[str, Any]:
    """Forbid fields that are not described, in all types that only go out.

    Streams lose their schema: schemathesis takes it for that of an event, which a check of ours
    reads from `x-event`.
    """
    copied = copy.deepcopy(description)
    schemas = copied["components"]["schemas"]
    coming = _reachable(copied, [_requests(copied)])
    for name, schema in schemas.items():
        if name not in coming and "properties" in schema:
            schema["additionalProperties"] = False
    for operation in _operations(copied):
        for content in operation["responses"].get("200", {}).get("content", {}).values():
            if "x-event" in content:
                del content["schema"]
    return copied


def event_schema(description: dict[str, Any], path: str, method: str) -> dict[str, Any] | None:
    """The schema of each event of a route's stream, None when it has none."""
    content = description["paths"][path][method.lower()]["responses"]["200"]["content"]
    found = [one["x-event"] for one in content.values() if "x-event" in one]
    return {**found[0], "components": description["components"]} if found else None


def _operations(description: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for item in description["paths"].values() for one in item.values()]


def _requests(description: dict[str, Any]) -> list[Any]:
    found = _operations(description)
    return [[one.get("requestBody"), one.get("parameters")] for one in found]


def _reachable(description: dict[str, Any], todo: list[Any]) -> set[str]:
    found: set[str] = set()
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo += node
        elif isinstance(node, dict):
            todo += node.values()
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                todo.append(description["components"]["schemas"][name])
    return found
