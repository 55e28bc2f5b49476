"""JSON schemas of the types of requests and answers, each field with a description.

A field is described by `Meta(description=...)`, by its line under `Args:` in the docstring of its
type, or in `descriptions.toml` (of the type, then of its API); the first that there is.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import msgspec
from msgspec import UNSET, Struct

TEMPLATE = "#/components/schemas/{name}"

Schema = dict[str, Any]

# The packages of other APIs, and what goes before the names of their types.
_APIS = {"anthropic": "Anthropic", "ollama": "Ollama", "responses": "Response"}
_API = re.compile(r"vllm_obtain\.api\.(" + "|".join(_APIS) + r")\.")
# A type in the mapping of a discriminator, which has its address as a plain text.
_MAPPED = '"(?!\\$ref)[^"]+":"' + TEMPLATE.format(name='([^"]+)') + '"'
_ARGUMENTS = re.compile(r"^Args:\n(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def components(requests: Iterable[Any], answers: Iterable[Any]) -> dict[str, Schema]:
    """Make the schemas of types and of all that they are made of.

    Args:
        requests: types that come in.
        answers: types that go out; whatever of them has a default value is always there.

    Returns:
        Schemas by name, to be referred to by `TEMPLATE`.
    """
    coming, going = list(requests), list(answers)
    _, found = msgspec.json.schema_components([*coming, *going], ref_template=TEMPLATE)
    schemas = _renamed(found, _classes([*coming, *going]))
    taken = {name_of(kind) for kind in _classes(coming)}
    told_apart = set(re.findall(_MAPPED, msgspec.json.encode(schemas).decode()))
    told = tomllib.loads(files("vllm_obtain.api").joinpath("descriptions.toml").read_text("utf-8"))
    for kind in _classes([*coming, *going]):
        schema = schemas.get(name_of(kind))
        if schema is None:
            continue
        _describe(kind, schema, told)
        if name_of(kind) not in taken:
            schema["required"] = _always_there(kind, schema)
        elif name_of(kind) not in told_apart:
            schema["required"] = _without_tag(kind, schema)
    return schemas


def name_of(kind: type) -> str:
    """Name a type: several APIs have a `Message`, so those of other APIs have theirs before it."""
    prefix = _api_of(kind)
    name = kind.__name__.lstrip("_")
    return name if name.startswith(prefix) else prefix + name


def reference(kind: Any) -> Schema:
    """Refer to the schema of a type, or of one of several (a tuple of types)."""
    if isinstance(kind, tuple):
        return {"anyOf": [reference(one) for one in kind]}
    if isinstance(kind, type) and issubclass(kind, Struct):
        return {"$ref": TEMPLATE.format(name=name_of(kind))}
    return msgspec.json.schema(kind)


def _api_of(kind: type) -> str:
    found = _API.match(kind.__module__)
    return _APIS[found.group(1)] if found else ""


def _renamed(schemas: dict[str, Schema], classes: list[type]) -> dict[str, Schema]:
    """Give types our names, where msgspec has written the whole path of some."""
    names: dict[str, str] = {}
    for kind in classes:
        names[f"{kind.__module__}.{kind.__qualname__}"] = names[kind.__name__] = name_of(kind)
    if len({name_of(kind) for kind in classes}) < len(classes):
        raise ValueError("two types have the same name")
    text = msgspec.json.encode(schemas).decode()
    head = TEMPLATE.format(name="")
    text = re.sub(f'"{head}([^"]+)"', lambda found: f'"{head}{names[found.group(1)]}"', text)
    return {names[name]: schema for name, schema in msgspec.json.decode(text).items()}


def _describe(kind: type, schema: Schema, told: dict[str, dict[str, str]]) -> None:
    text = inspect.getdoc(kind) or ""
    schema["description"] = _ARGUMENTS.sub("", text).strip()
    # What fields mean wherever an API has them, then what they mean in this type.
    texts = dict(told.get(_api_of(kind), {}))
    for base in reversed(kind.__mro__):
        texts |= told.get(name_of(base), {})
        # Only its own words: getdoc would give those of the parent.
        texts |= _arguments(inspect.cleandoc(vars(base).get("__doc__") or ""))
    texts = {_shown_name(kind, name): text for name, text in texts.items()}
    for name, found in schema.get("properties", {}).items():
        _describe_property(name, found, texts)


def _describe_property(name: str, schema: Schema, texts: dict[str, str]) -> None:
    if schema.get("default", 0) is None:
        # To leave a field out and to send null is the same; null is no value to tell of.
        del schema["default"]
    parts = [schema, *schema.get("anyOf", ())]
    own = next((part["description"] for part in parts if "description" in part), None)
    values = schema.get("enum", ())
    usual = f"Always `{values[0]}`." if len(values) == 1 else ""
    text = own or texts.get(name) or usual
    if text:
        schema["description"] = text


def _arguments(text: str) -> dict[str, str]:
    section = _ARGUMENTS.search(text)
    if section is None:
        return {}
    found = {name: " ".join(words.split()) for name, words in _ARGUMENT.findall(section.group(1))}
    return {name: words[:1].upper() + words[1:] for name, words in found.items()}


def _shown_name(kind: type, name: str) -> str:
    if not issubclass(kind, Struct):
        return name
    return dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)).get(
        name, name
    )


def _without_tag(kind: type, schema: Schema) -> list[str]:
    """A tag is needed only where it tells types apart: elsewhere it may be left out."""
    config = getattr(kind, "__struct_config__", None)
    tag = config.tag_field if config is not None and config.tag is not None else None
    return [name for name in schema.get("required", ()) if name != tag]


def _always_there(kind: type, schema: Schema) -> list[str]:
    if not issubclass(kind, Struct):
        return list(schema.get("properties", ()))
    if kind.__struct_config__.omit_defaults:
        return list(schema.get("required", ()))
    optional = {
        field.encode_name for field in msgspec.structs.fields(kind) if field.default is UNSET
    }
    return [name for name in schema.get("properties", {}) if name not in optional]


def _classes(types: list[Any]) -> list[type]:
    """Find every class that types are made of."""
    found: dict[type, None] = {}
    todo: list[Any] = list(msgspec.inspect.multi_type_info(types))
    while todo:
        info = todo.pop()
        if isinstance(info, tuple):
            todo += info
        if not isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
            continue
        kind = getattr(info, "cls", None)
        if isinstance(kind, type):
            if kind in found:
                continue
            found[kind] = None
        todo += [getattr(info, name) for name in info.__struct_fields__]
    return list(found)
