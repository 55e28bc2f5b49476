"""Finds each list and string in request types, and builds requests that fill one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from msgspec import inspect

# How deep the fields of a request are searched.
DEPTH = 6
# Units that fill a string, by name: each makes some expression or parser work.
UNITS = {
    "letters": "x",
    "digits": "1",
    "quotes": '"',
    "escaped quotes": '\\"',
    "lines": "\n",
    "spaces": " ",
    "braces": "{",
    "brackets": "[",
    "tags": "<think>",
    "rules": 'a ::= "b"\n',
    "billing": "x-anthropic-billing-header: cc\n",
    "commas": "a,",
}


@dataclass(frozen=True)
class Field:
    """A list or a string in a request.

    Args:
        path: where it is, such as `messages[].content`.
        build: returns a request whose field has this many elements or units.
    """

    path: str
    build: Callable[[int], Any]

    def body(self, count: int) -> bytes:
        """Encode the request with `count` elements."""
        return json.dumps(self.build(count)).encode()


def fields_of(request_type: type, base: dict[str, Any]) -> list[Field]:
    """List the fields of a request type.

    Args:
        request_type: the type that the body is decoded to.
        base: a small valid request.
    """
    found = _fields(inspect.type_info(request_type), "", DEPTH)
    return [Field(path, _merged(base, make)) for path, make in found]


Make = Callable[[int], Any]


def _merged(base: dict[str, Any], make: Make) -> Make:
    return lambda count: {**base, **make(count)}


def _fields(kind: inspect.Type, path: str, depth: int) -> Iterator[tuple[str, Make]]:
    """Yield the fields below a type, each with a function that makes a value of the type."""
    if depth == 0:
        return
    if isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _fields(each, path, depth)
    elif isinstance(kind, inspect.StrType):
        for name, unit in UNITS.items():
            yield f"{path} ({name})", lambda count, unit=unit: unit * count
    elif isinstance(kind, inspect.ListType):
        yield from _list_fields(kind, path, depth)
    elif isinstance(kind, inspect.DictType | inspect.AnyType):
        yield f"{path}{{}}", lambda count: {f"k{n}": "v" for n in range(count)}
    elif isinstance(kind, inspect.StructType):
        yield from _struct_fields(kind, path, depth)


def _list_fields(kind: inspect.ListType, path: str, depth: int) -> Iterator[tuple[str, Make]]:
    item = kind.item_type
    kinds = item.types if isinstance(item, inspect.UnionType) else (item,)
    for each in kinds:
        name = each.cls.__name__ if isinstance(each, inspect.StructType) else ""
        yield f"{path}[{name}]*", lambda count, each=each: [_minimal(each, n) for n in range(count)]
        for inner, make in _fields(each, f"{path}[{name}]", depth - 1):
            yield inner, lambda count, make=make: [make(count)]


def _struct_fields(kind: inspect.StructType, path: str, depth: int) -> Iterator[tuple[str, Make]]:
    for field in kind.fields:
        name = field.encode_name
        for inner, make in _fields(field.type, f"{path}.{name}".lstrip("."), depth - 1):

            def whole(count: int, name: str = name, make: Make = make) -> dict[str, Any]:
                return {**_minimal(kind, 0), name: make(count)}

            yield inner, whole


def _minimal(kind: inspect.Type, number: int) -> Any:
    """Return the smallest value of a type; strings differ by number."""
    if isinstance(kind, inspect.UnionType):
        return _minimal(kind.types[0], number)
    if isinstance(kind, inspect.StructType):
        tag = {kind.tag_field: kind.tag} if kind.tag_field else {}
        return tag | {
            each.encode_name: _minimal(each.type, number) for each in kind.fields if each.required
        }
    if isinstance(kind, inspect.StrType):
        return f"a{number}"
    if isinstance(kind, inspect.LiteralType):
        return kind.values[0]
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return max(1, kind.ge or 0)
    if isinstance(kind, inspect.BoolType):
        return False
    if isinstance(kind, inspect.ListType):
        return [_minimal(kind.item_type, number)]
    if isinstance(kind, inspect.DictType | inspect.AnyType):
        return {"type": "object"}
    return None
