"""The keywords of JSON Schema, by what becomes of them in a grammar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_obtain.chat.grammar_limits import MAX_COUNT, MAX_LENGTH

FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid uri".split())
TYPES = frozenset("null boolean number integer string array object".split())
ANNOTATIONS = frozenset(
    "title description default examples $comment readOnly writeOnly deprecated "
    "$dynamicAnchor $recursiveAnchor contentEncoding contentMediaType contentSchema".split()
)
COUNTS = {
    **dict.fromkeys(("minItems", "maxItems", "minProperties", "maxProperties"), MAX_COUNT),
    **dict.fromkeys(("minLength", "maxLength"), MAX_LENGTH),
}
LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
UNSUPPORTED = (
    "not if then else contains minContains maxContains propertyNames uniqueItems dependencies "
    "dependentRequired dependentSchemas unevaluatedProperties unevaluatedItems $dynamicRef "
    "$recursiveRef"
).split()
UNSUPPORTED_SET = frozenset(UNSUPPORTED)
NUMBERS = frozenset((*COUNTS, *LIMITS, "multipleOf"))
# Without one of these, the keyword has no effect.
DEPENDS = {
    "then": ("if",),
    "else": ("if",),
    "if": ("then", "else"),
    "minContains": ("contains",),
    "maxContains": ("contains",),
}
APPLICATORS = frozenset("$ref $dynamicRef allOf anyOf oneOf if dependentSchemas".split())
ONE = ("additionalProperties", "additionalItems")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
MAPS = ("properties", "patternProperties", "$defs", "definitions")
DETAILS = (*COUNTS, *LIMITS, "multipleOf", "pattern", "patternProperties", "format")
CORE = frozenset(
    "type properties required items enum const $ref anyOf additionalProperties $defs definitions "
    "$schema".split()
)


def _are_types(value: Any) -> bool:
    names = value if isinstance(value, list) and value else [value]
    return all(isinstance(name, str) and name in TYPES for name in names)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_filled(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


# Whether a value has the type that the keyword requires.
IS_VALID: dict[str, Callable[[Any], bool]] = {
    "type": _are_types,
    "enum": _is_filled,
    "required": _are_names,
    "$ref": lambda value: isinstance(value, str),
    "items": lambda value: isinstance(value, dict | list | bool),
    **dict.fromkeys(ONE, _is_schema),
    **dict.fromkeys(LISTS, _is_filled),
    "prefixItems": lambda value: isinstance(value, list),
    **dict.fromkeys(MAPS, lambda value: isinstance(value, dict)),
}
