"""Reads the file MODEL_SETTINGS: TOML, a table per model, checked before the service starts.

The first process reads it once and passes its content to the others.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from vllm_obtain.config.error_messages import error_message
from vllm_obtain.config.model_settings import ModelSettings, ModelTable, SamplingSettings
from vllm_obtain.errors import SettingsError

# The content is passed in an environment variable. Linux limits those to 128 KiB.
_MAX_BYTES = 64 * 1024
# Requirements that the types of the fields do not express.
_REQUIREMENTS = {
    "aliases": "must be a list of names with 1 to 200 characters",
    "base": "must be a model name with 1 to 200 characters",
    "gpu": "must be a GPU index between 0 and 1023, or a list of them",
}


def read(file: Path, frozen: str | None = None) -> ModelTable:
    """Read the file.

    Args:
        file: path of the file; a missing file is treated as empty.
        frozen: content of the file when the service started; the file is then not read.

    Raises:
        SettingsError: the file is unreadable or invalid; the message names the file, the table,
            the key and the valid values.
    """
    text = _text(file) if frozen is None else frozen
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"MODEL_SETTINGS={file}: invalid TOML: {error}.") from None
    problems: list[str] = []
    tables: dict[str, ModelSettings] = {}
    for name, values in content.items():
        try:
            tables[name] = _table(values, file.parent)
        except ValidationError as error:
            problems += [ModelTable(file).message(name, each) for each in _explain(error)]
        except ValueError as error:
            problems.append(f"MODEL_SETTINGS={file}: {name} {error}.")
    table = ModelTable(file, text, tables)
    problems += [table.message(*conflict) for conflict in _conflicts(tables)]
    if problems:
        raise SettingsError("\n".join(problems))
    return table


def _table(values: object, folder: Path) -> ModelSettings:
    if not isinstance(values, dict):
        raise ValueError('is outside of a table; move it below a model such as ["smollm2-135m"]')
    return ModelSettings.model_validate(values, context={"folder": folder})


def _text(file: Path) -> str:
    try:
        if not file.is_file():
            return ""
        if file.stat().st_size > _MAX_BYTES:
            raise SettingsError(
                f"MODEL_SETTINGS={file}: the file exceeds the limit of {_MAX_BYTES} bytes."
            )
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingsError(f"MODEL_SETTINGS={file}: cannot read the file: {error}.") from None


def _conflicts(tables: Mapping[str, ModelSettings]) -> Iterator[tuple[str, str]]:
    """Yield the table and the description of each conflict between keys or tables."""
    names: dict[str, str] = {}
    for name, table in tables.items():
        yield from ((name, problem) for problem in table.contradictions())
        if (other := names.setdefault(name.casefold(), name)) != name:
            yield name, f"is the same model as [{other}]; names are not case-sensitive"
        if table.base and ModelTable(tables=tables).of(table.base).lora:
            yield name, f"base must not be a LoRA adapter, got {table.base!r}"
    owners: dict[str, str] = {}
    for name, table in tables.items():
        for alias in table.aliases:
            folded = alias.casefold()
            if folded in names:
                yield name, f"aliases contains {alias!r}, which is the model [{names[folded]}]"
            elif (other := owners.setdefault(folded, name)) != name:
                yield name, f"aliases contains {alias!r}, which is already an alias of [{other}]"


def _explain(error: ValidationError) -> Iterator[str]:
    reported = set()
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"] if not str(part).startswith("list[")]
        key = ".".join(part for part in path if part not in ("int", "constrained-int"))
        if key in reported:  # a union of types has one error per type
            continue
        reported.add(key)
        if problem["type"] == "extra_forbidden":
            yield _unknown(key)
            continue
        nested = path[0] == "sampling" and len(path) > 1
        field = (
            SamplingSettings.model_fields[path[1]]
            if nested
            else ModelSettings.model_fields[path[0]]
        )
        message = _REQUIREMENTS.get(path[0]) or error_message(problem, field)
        yield f"{key} {message}, got {problem['input']!r}"


def _unknown(key: str) -> str:
    parent, dot, name = key.rpartition(".")
    known = list(SamplingSettings.model_fields if dot else ModelSettings.model_fields)
    similar = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean {similar[0]}? " if similar else ""
    where = f" in {parent}" if dot else ""
    return f"{key} is not a setting. {hint}Settings{where}: {', '.join(known)}"
