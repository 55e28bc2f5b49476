"""Bounds JSON Schemas, and removes or rejects what a grammar cannot enforce.

llguidance compiles JSON Schema (docs/json_schema.md of github.com/guidance-ai/llguidance), but not
all keywords, and counts of a few digits take seconds or gigabytes. A schema that is a contract is
rejected with the path of the keyword. A schema that is a hint loses the keyword. Unknown formats
are annotations, and a keyword whose value is null is absent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any
from urllib.parse import unquote

from vllm_obtain.chat.closed_objects import close
from vllm_obtain.chat.grammar_limits import (
    MAX_ITEMS,
    MAX_MULTIPLE,
    is_small_multiple,
    pattern_problem,
)
from vllm_obtain.chat.schema_keywords import (
    ANNOTATIONS,
    APPLICATORS,
    CORE,
    COUNTS,
    DEPENDS,
    DETAILS,
    FORMATS,
    IS_VALID,
    LIMITS,
    LISTS,
    MAPS,
    NUMBERS,
    ONE,
    UNSUPPORTED,
    UNSUPPORTED_SET,
)
from vllm_obtain.chat.schema_source import NULLABLE, SchemaError, children, decode, encode, pairs
from vllm_obtain.gevent_compat import yield_to_others

# Copies of a schema for the names of `propertyNames`.
_MAX_NAMES, _MAX_COPIED = 64, 256
_MAX_NUMBER = 2**63
# Subschemas, and characters of a pattern, after which other requests have a turn.
_PAUSE, _LONG_PATTERN = 64, 2048


class Level(IntEnum):
    """How much of a schema is kept; each level keeps less."""

    SUPPORTED = 0
    UNIONS = 1  # `oneOf` as `anyOf`
    SHAPES = 2  # no patterns, lengths and limits
    CORE = 3
    NONE = 4


@dataclass(frozen=True, slots=True)
class GrammarSchema:
    """A schema for a grammar.

    Args:
        schema: the schema; not to be changed.
        removed: JSON pointers to the keywords that it lost.
        items: the items of its arrays that the grammar repeats.
    """

    schema: Any
    removed: tuple[str, ...] = ()
    items: int = 0


def enforce(source: bytes) -> GrammarSchema:
    """Prepare a schema that is a contract.

    Args:
        source: the schema as JSON.

    Raises:
        SchemaError: it cannot be enforced; the message has the path and the reason.
    """
    return _Pass(decode(source), None).run()


def loosen(source: bytes, level: Level = Level.SUPPORTED) -> GrammarSchema:
    """Prepare a schema that is a hint: remove what cannot be enforced.

    Args:
        source: the schema as JSON.
        level: what to keep at most.

    Raises:
        SchemaError: it is nested too deeply.
    """
    root = decode(source)
    if level is Level.NONE or not isinstance(root, dict):
        return GrammarSchema({"type": "object"}, ("",))
    return _Pass(root, level).run()


def _pattern_problem(pattern: object) -> str:
    if isinstance(pattern, str) and len(pattern) > _LONG_PATTERN:
        yield_to_others()
    return pattern_problem(pattern)


def _step(path: str, name: str | int) -> str:
    return f"{path}/{str(name).replace('~', '~0').replace('/', '~1')}"


@dataclass
class _Pass:
    """One pass over a schema, which it changes. Visits each subschema once, without recursion.

    Args:
        root: the schema.
        level: what to keep of a hint; None for a contract.
    """

    root: Any
    level: Level | None
    removed: list[str] = field(default_factory=list)
    items: int = 0
    _open: list[tuple[dict[str, Any], str]] = field(default_factory=list)

    def run(self) -> GrammarSchema:
        """Visit all subschemas."""
        seen: set[int] = set()
        if isinstance(self.root, dict):
            self._open.append((self.root, ""))
        elif not isinstance(self.root, bool):
            raise SchemaError("a schema must be an object or a boolean")
        close(self.root, self._target)
        while self._open:
            node, path = self._open.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if len(seen) % _PAUSE == 0:
                yield_to_others()
            last = len(self._open)
            self._visit(node, path)
            self._open[last:] = reversed(self._open[last:])  # in the order of the schema
        return GrammarSchema(self.root, tuple(self.removed), self.items)

    def _visit(self, node: dict[str, Any], path: str) -> None:
        for name, value in list(node.items()):
            if name in ANNOTATIONS or (value is None and name not in NULLABLE):
                del node[name]
        if node.get("not") in ({}, True):
            node.clear()
            node["enum"] = []
            return
        self._reduce(node, path)
        self._check_values(node, path)
        if not NUMBERS.isdisjoint(node):
            self._check_counts(node, path)
            self._check_numbers(node, path)
        self._check_patterns(node, path)
        for name in () if UNSUPPORTED_SET.isdisjoint(node) else UNSUPPORTED:
            if name in node and not self._is_enforced(node, name):
                self._remove(node, name, path, "no engine can enforce {}. Remove it")
        self._check_properties(node, path)
        self._check_ref(node, path)
        self._openchildren(node, path)

    def _remove(self, node: dict[str, Any], name: str, path: str, problem: str) -> None:
        place = _step(path, name)
        if self.level is None:
            raise SchemaError(problem.format(f"'{place}'"))
        del node[name]
        self.removed.append(place)

    def _reduce(self, node: dict[str, Any], path: str) -> None:
        """Remove what the level does not keep."""
        level = self.level or Level.SUPPORTED
        if level >= Level.UNIONS and "oneOf" in node:
            options = node["oneOf"]
            self._remove(node, "oneOf", path, "")
            if "anyOf" in node:
                node["allOf"] = [*_list(node.get("allOf")), {"anyOf": options}]
            else:
                node["anyOf"] = options
        if level >= Level.SHAPES:
            for name in DETAILS:
                if name in node:
                    self._remove(node, name, path, "")
        if level >= Level.CORE:
            kept = {"$ref", "$defs", "definitions"} if "$ref" in node else CORE
            for name in list(node):
                if name not in kept or (name == "items" and isinstance(node[name], list)):
                    self._remove(node, name, path, "")

    def _check_values(self, node: dict[str, Any], path: str) -> None:
        """Remove unknown formats and keywords whose value has the wrong type."""
        if "format" in node and node["format"] not in FORMATS:
            del node["format"]
        for name, value in list(node.items()):
            is_valid = IS_VALID.get(name)
            if is_valid is not None and not is_valid(value):
                self._remove(node, name, path, "the value of {} is invalid. Fix it")

    def _check_counts(self, node: dict[str, Any], path: str) -> None:
        for name, limit in COUNTS.items():
            value = node.get(name)
            if value is None:
                continue
            if isinstance(value, float) and value.is_integer():
                value = node[name] = int(value)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                self._remove(node, name, path, "{} must be a non-negative integer. Fix it")
            elif value > limit:
                self._remove(
                    node, name, path, f"{{}} is {value:,}; at most {limit:,} is supported. Lower it"
                )
            elif name in ("minItems", "maxItems"):
                self.items += value
                if self.items > MAX_ITEMS:
                    self.items -= value
                    problem = f"with {{}}, arrays have more than {MAX_ITEMS:,} items together"
                    self._remove(node, name, path, f"{problem}. Lower it")

    def _check_numbers(self, node: dict[str, Any], path: str) -> None:
        for name in LIMITS:
            value = node.get(name)
            if value is None or (isinstance(value, bool) and name.startswith("exclusive")):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                self._remove(node, name, path, "{} must be a number. Fix it")
            elif value <= -_MAX_NUMBER or (value >= _MAX_NUMBER and node.get("type") != "integer"):
                self._remove(node, name, path, "{} must have an absolute value below 2^63")
        if "multipleOf" in node and not is_small_multiple(node["multipleOf"]):
            problem = f"{{}} must be at most {MAX_MULTIPLE:,} without its decimal point"
            self._remove(node, "multipleOf", path, f"{problem}, and positive")

    def _check_patterns(self, node: dict[str, Any], path: str) -> None:
        pattern = node.get("pattern")
        if pattern is not None and (problem := _pattern_problem(pattern)):
            self._remove(node, "pattern", path, f"{{}} {problem}")
        patterns = node.get("patternProperties", {})
        for name in list(patterns):
            if problem := _pattern_problem(name):
                self._remove(patterns, name, f"{path}/patternProperties", f"{{}} {problem}")

    def _is_enforced(self, node: dict[str, Any], name: str) -> bool:
        """Remove an unsupported keyword that has no effect, or say the same in supported ones."""
        value = node[name]
        if name in DEPENDS and not any(other in node for other in DEPENDS[name]):
            del node[name]
            return True
        if name in ("unevaluatedProperties", "unevaluatedItems"):
            other = "additionalProperties" if name == "unevaluatedProperties" else "items"
            if value not in (True, {}) and APPLICATORS & node.keys():
                return False
            node.setdefault(other, node.pop(name))
            return True
        has_effect = {
            "uniqueItems": value is not False and node.get("maxItems", 2) > 1,
            "propertyNames": value is not True,
            "not": value is not False,
        }.get(name, value != {})
        if has_effect and name == "propertyNames":
            return self._enforce_names(node)
        if not has_effect:
            del node[name]
        return not has_effect

    def _enforce_names(self, node: dict[str, Any]) -> bool:
        """Replace `propertyNames` by patterns or properties, if it is simple."""
        names = node["propertyNames"]
        if isinstance(names, dict) and isinstance(names.get("$ref"), str):
            names = self._target(names["$ref"])
        if not isinstance(names, dict):
            return False
        rules = {key: value for key, value in names.items() if key not in ANNOTATIONS}
        if rules.pop("type", "string") != "string":
            return False
        if not rules:
            del node["propertyNames"]
            return True
        value = node.get("additionalProperties", {})
        if node.get("properties") or node.get("patternProperties") or len(rules) > 1:
            return False
        level = self.level or Level.SUPPORTED
        pattern = rules.get("pattern")
        texts = rules.get("enum", [rules["const"]] if "const" in rules else None)
        if isinstance(pattern, str) and not _pattern_problem(pattern) and level < Level.SHAPES:
            node["patternProperties"] = {pattern: value}
        elif isinstance(texts, list) and len(texts) <= _MAX_NAMES and _is_flat(value):
            node["properties"] = {text: value for text in texts if isinstance(text, str)}
        else:
            return False
        del node["propertyNames"]
        node["additionalProperties"] = False
        return True

    def _check_properties(self, node: dict[str, Any], path: str) -> None:
        """Check numbers of properties, which llguidance counts only if all named are required."""
        named = node.get("properties") or {}
        required = set(_list(node.get("required")))
        if not named or named.keys() <= required:
            return
        closed = node.get("additionalProperties") is False
        for name in ("minProperties", "maxProperties"):
            value = node.get(name)
            if value is None or (closed and value <= 1):
                continue
            implied = (
                value <= len(required) if name[:3] == "min" else closed and value >= len(named)
            )
            if implied:
                del node[name]
            else:
                self._remove(node, name, path, "no engine can enforce {}. Remove it")

    def _check_ref(self, node: dict[str, Any], path: str) -> None:
        ref = node.get("$ref")
        if not isinstance(ref, str) or (ref[:1] == "#" and ref[1:2] not in ("", "/")):
            return
        target = self._target(ref)
        if target is None:
            self._remove(node, "$ref", path, "{} must refer to a part of the schema")
        elif isinstance(target, dict):
            self._open.append((target, ref.removeprefix("#")))

    def _target(self, ref: str) -> Any:
        """Return what a local reference refers to; None if it does not exist."""
        if ref[:2] not in ("#", "#/"):
            return None
        value = self.root
        for part in unquote(ref[2:]).split("/") if ref != "#" else ():
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, list) and name.isdecimal() and len(name) < 9:
                value = value[int(name)] if int(name) < len(value) else None
            else:
                value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, dict | bool) else None

    def _openchildren(self, node: dict[str, Any], path: str) -> None:
        for name in (*ONE, "items"):
            if isinstance(node.get(name), dict):
                self._open.append((node[name], _step(path, name)))
        for name in (*LISTS, "items", *MAPS):
            group = node.get(name)
            if not isinstance(group, dict | list) or (name == "items" and isinstance(group, dict)):
                continue
            place = _step(path, name)
            for key, child in list(pairs(group)):
                if isinstance(child, dict):
                    self._open.append((child, _step(place, key)))
                elif not isinstance(child, bool):
                    self._replace(group, key, place)

    def _replace(self, group: Any, key: Any, place: str) -> None:
        """Replace what is not a schema by one that allows all values."""
        if group[key] is not None and self.level is None:
            raise SchemaError(f"'{_step(place, key)}' must be an object or a boolean")
        if group[key] is not None:
            self.removed.append(_step(place, key))
        group[key] = {}


def _list(value: Any, other: Any = ()) -> Any:
    return value if isinstance(value, list) else other


def _is_flat(schema: Any) -> bool:
    """Whether a schema is small and has no subschemas, so that it can be copied."""
    if not isinstance(schema, dict):
        return True
    return not any(children(schema)) and len(encode(schema)) <= _MAX_COPIED
