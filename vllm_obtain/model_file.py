"""Reads the file MODEL_SETTINGS: TOML, a table per model, checked before the service starts.

It is read once, by the service's first process, and its text is handed on to the others.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from vllm_obtain.errors import SettingsError
from vllm_obtain.model_settings import ModelSettings, ModelTable, SamplingSettings

# It travels in a variable of the environment, which Linux limits to twice this.
_MOST_BYTES = 64 * 1024


def read(file: Path, frozen: str | None = None) -> ModelTable:
    """Read the file.

    Args:
        file: where it is; none is the same as an empty one.
        frozen: what was in there when the service started, instead of a look at it.

    Raises:
        SettingsError: it cannot be read or something in it is not allowed; the message names the
            file, the table, the key and what is allowed.
    """
    text = _text(file) if frozen is None else frozen
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"MODEL_SETTINGS={file}: it is not valid TOML: {error}.") from None
    problems: list[str] = []
    tables: dict[str, ModelSettings] = {}
    for name, values in found.items():
        try:
            tables[name] = _table(values, file.parent)
        except ValidationError as error:
            problems += [ModelTable(file).said(name, each) for each in _explain(error)]
        except ValueError as error:
            problems.append(f"MODEL_SETTINGS={file}: {name} {error}.")
    made = ModelTable(file, text, tables)
    problems += [made.said(*each) for each in _clashes(tables)]
    if problems:
        raise SettingsError("\n".join(problems))
    return made


def _table(values: object, folder: Path) -> ModelSettings:
    if not isinstance(values, dict):
        raise ValueError('stands outside of a table; put it below a model: ["smollm2-135m"]')
    return ModelSettings.model_validate(values, context={"folder": folder})


def _text(file: Path) -> str:
    try:
        if not file.is_file():
            return ""
        if file.stat().st_size > _MOST_BYTES:
            raise SettingsError(f"MODEL_SETTINGS={file}: it is larger than {_MOST_BYTES} bytes.")
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingsError(f"MODEL_SETTINGS={file}: it cannot be read: {error}.") from None


def _clashes(tables: Mapping[str, ModelSettings]) -> Iterator[tuple[str, str]]:
    """Yield the table and the problem, for all that concerns several keys or tables."""
    names: dict[str, str] = {}
    for name, each in tables.items():
        yield from ((name, problem) for problem in each.contradictions())
        if (other := names.setdefault(name.casefold(), name)) != name:
            yield name, f"is the same model as [{other}]: capitals do not make another one"
        if each.base and ModelTable(tables=tables).of(each.base).lora:
            yield name, f"base = {each.base!r} is not allowed: it is an adapter itself"
    taken: dict[str, str] = {}
    for name, each in tables.items():
        for alias in each.aliases:
            folded = alias.casefold()
            if folded in names:
                yield name, f"aliases has {alias!r}, which is the model [{names[folded]}]"
            elif (other := taken.setdefault(folded, name)) != name:
                yield name, f"aliases has {alias!r}, which is an alias of [{other}] already"


def _explain(error: ValidationError) -> Iterator[str]:
    seen = set()
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"] if not str(part).startswith("list[")]
        key = ".".join(part for part in path if part not in ("int", "constrained-int"))
        if key in seen:  # a value that may be of several types is told of once
            continue
        seen.add(key)
        if problem["type"] == "extra_forbidden":
            yield _unknown(key)
            continue
        said = problem["msg"].removeprefix("Value error, ")
        allowed = said.replace("Input should be ", "allowed: ")
        yield f"{key} = {problem['input']!r} is not allowed ({allowed})"


def _unknown(key: str) -> str:
    head, dot, tail = key.rpartition(".")
    known = list(SamplingSettings.model_fields if dot else ModelSettings.model_fields)
    near = difflib.get_close_matches(tail, known, 1)
    hint = f"Did you mean {near[0]}? " if near else ""
    where = f" in {head}" if dot else ""
    return f"{key} is not a setting. {hint}Allowed{where}: {', '.join(known)}"
