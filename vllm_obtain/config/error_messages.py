"""Error messages for invalid settings: what a value must be, and what it was."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, WrapValidator
from pydantic.fields import FieldInfo

from vllm_obtain.config import validators

_NAMES = {str: "a string", list: "a list"}


def requirement(field: FieldInfo) -> str:
    """Describe the values that a field accepts, as in `an integer between 1 and 65535`."""
    annotation, metadata = field.annotation, list(field.metadata)
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(each for each in get_args(annotation) if each is not type(None))
    if get_origin(annotation) is Annotated:
        annotation, *inner = get_args(annotation)
        metadata += inner
    text = _describe(annotation, metadata)
    is_auto_allowed = any(
        isinstance(each, WrapValidator) and each.func is validators.or_auto for each in metadata
    )
    return f"{text}, or auto" if is_auto_allowed else text


def error_message(problem: Any, field: FieldInfo) -> str:
    """Describe an error of pydantic, as in `must be an integer between 1 and 65535`.

    Args:
        problem: an item of `ValidationError.errors()`.
        field: the field that it is about.
    """
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    return f"must be {requirement(field)}"


def one_of(values: Sequence[object]) -> str:
    """List alternatives, as in `auto, mlx or vllm`."""
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last


def _describe(annotation: Any, metadata: Sequence[object]) -> str:
    if get_origin(annotation) is Literal:
        return one_of(get_args(annotation))
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        return _number("an integer" if annotation is int else "a number", metadata)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a table"
    return _NAMES.get(get_origin(annotation) or annotation, "a path")


def _number(noun: str, metadata: Sequence[object]) -> str:
    bounds = {
        name: getattr(each, name)
        for each in metadata
        for name in ("gt", "ge", "le")
        if getattr(each, name, None) is not None
    }
    if "gt" in bounds:
        return f"{noun} greater than {bounds['gt']} and at most {bounds['le']}"
    if "ge" in bounds:
        return f"{noun} between {bounds['ge']} and {bounds['le']}"
    return noun
