"""JSON Schemas of request and response types, with a description of every field.

The description of a field is, in order of precedence, `Meta(description=...)`, the line under
`Args:` in the docstring of its type, or the text in `descriptions.toml` (of the type, then of its
API).
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

# The packages of other APIs, and the prefixes of their schema names.
_APIS = {"anthropic": "Anthropic", "ollama": "Ollama", "responses": "Response"}
_API = re.compile(r"vllm_obtain\.gateway\.(" + "|".join(_APIS) + r")\.")
# A type in a discriminator's mapping, which holds references as plain strings.
_MAPPED = '"(?!\\$ref)[^"]+":"' + TEMPLATE.format(name='([^"]+)') + '"'
_ARGUMENTS = re.compile(r"^Args:\n(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def components(requests: Iterable[Any], responses: Iterable[Any]) -> dict[str, Schema]:
    """Generate the schemas of types and of all types that they refer to.

    Args:
        requests: types of request bodies and queries.
        responses: types of responses; their fields with default values are required.

    Returns:
        Schemas by name; `TEMPLATE` is the form of references to them.
    """
    request_types = list(requests)
    types = [*request_types, *responses]
    _, raw = msgspec.json.schema_components(types, ref_template=TEMPLATE)
    schemas = _renamed(raw, _classes(types))
    request_names = {name_of(kind) for kind in _classes(request_types)}
    discriminated = set(re.findall(_MAPPED, msgspec.json.encode(schemas).decode()))
    descriptions = tomllib.loads(
        files("vllm_obtain.gateway.apidocs").joinpath("descriptions.toml").read_text("utf-8")
    )
    for kind in _classes(types):
        schema = schemas.get(name_of(kind))
        if schema is None:
            continue
        _describe(kind, schema, descriptions)
        if name_of(kind) not in request_names:
            schema["required"] = _required_in_responses(kind, schema)
        elif name_of(kind) not in discriminated:
            schema["required"] = _required_without_tag(kind, schema)
    return schemas


def name_of(kind: type) -> str:
    """Return the schema name of a type, prefixed with its API, as several APIs have a `Message`."""
    prefix = _api_of(kind)
    name = kind.__name__.lstrip("_")
    return name if name.startswith(prefix) else prefix + name


def reference(kind: Any) -> Schema:
    """Return a reference to the schema of a type, or to alternatives for a tuple of types."""
    if isinstance(kind, tuple):
        return {"anyOf": [reference(alternative) for alternative in kind]}
    if isinstance(kind, type) and issubclass(kind, Struct):
        return {"$ref": TEMPLATE.format(name=name_of(kind))}
    return msgspec.json.schema(kind)


def _api_of(kind: type) -> str:
    match = _API.match(kind.__module__)
    return _APIS[match.group(1)] if match else ""


def _renamed(schemas: dict[str, Schema], classes: list[type]) -> dict[str, Schema]:
    """Replace msgspec's schema names, some of which are full paths, by those of `name_of`."""
    names: dict[str, str] = {}
    for kind in classes:
        names[f"{kind.__module__}.{kind.__qualname__}"] = names[kind.__name__] = name_of(kind)
    if len({name_of(kind) for kind in classes}) < len(classes):
        raise ValueError("two types have the same name")
    text = msgspec.json.encode(schemas).decode()
    head = TEMPLATE.format(name="")
    text = re.sub(f'"{head}([^"]+)"', lambda match: f'"{head}{names[match.group(1)]}"', text)
    return {names[name]: schema for name, schema in msgspec.json.decode(text).items()}


def _describe(kind: type, schema: Schema, descriptions: dict[str, dict[str, str]]) -> None:
    text = inspect.getdoc(kind) or ""
    schema["description"] = _ARGUMENTS.sub("", text).strip()
    # Texts of the API first, so that those of the type override them.
    texts = dict(descriptions.get(_api_of(kind), {}))
    for base in reversed(kind.__mro__):
        texts |= descriptions.get(name_of(base), {})
        # Not getdoc, which falls back to the docstring of the base class.
        texts |= _arguments(inspect.cleandoc(vars(base).get("__doc__") or ""))
    texts = {_shown_name(kind, name): text for name, text in texts.items()}
    for name, field in schema.get("properties", {}).items():
        _describe_property(name, field, texts)


def _describe_property(name: str, schema: Schema, texts: dict[str, str]) -> None:
    if schema.get("default", 0) is None:
        # Null equals an omitted field, so it is not documented as a default.
        del schema["default"]
    parts = [schema, *schema.get("anyOf", ())]
    own = next((part["description"] for part in parts if "description" in part), None)
    values = schema.get("enum", ())
    constant = f"Always `{values[0]}`." if len(values) == 1 else ""
    text = own or texts.get(name) or constant
    if text:
        schema["description"] = text


def _arguments(text: str) -> dict[str, str]:
    section = _ARGUMENTS.search(text)
    if section is None:
        return {}
    texts = {name: " ".join(words.split()) for name, words in _ARGUMENT.findall(section.group(1))}
    return {name: text[:1].upper() + text[1:] for name, text in texts.items()}


def _shown_name(kind: type, name: str) -> str:
    if not issubclass(kind, Struct):
        return name
    return dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)).get(
        name, name
    )


def _required_without_tag(kind: type, schema: Schema) -> list[str]:
    """Return the required fields without the tag, which is optional outside of unions."""
    config = getattr(kind, "__struct_config__", None)
    tag = config.tag_field if config is not None and config.tag is not None else None
    return [name for name in schema.get("required", ()) if name != tag]


def _required_in_responses(kind: type, schema: Schema) -> list[str]:
    if not issubclass(kind, Struct):
        return list(schema.get("properties", ()))
    if kind.__struct_config__.omit_defaults:
        return list(schema.get("required", ()))
    optional = {
        field.encode_name for field in msgspec.structs.fields(kind) if field.default is UNSET
    }
    return [name for name in schema.get("properties", {}) if name not in optional]


def _classes(types: list[Any]) -> list[type]:
    """Return all classes that types refer to, without duplicates, in order."""
    classes: dict[type, None] = {}
    todo: list[Any] = list(msgspec.inspect.multi_type_info(types))
    while todo:
        info = todo.pop()
        if isinstance(info, tuple):
            todo += info
        if not isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
            continue
        kind = getattr(info, "cls", None)
        if isinstance(kind, type):
            if kind in classes:
                continue
            classes[kind] = None
        todo += [getattr(info, name) for name in info.__struct_fields__]
    return list(classes)
