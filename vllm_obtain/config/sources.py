"""Sources of settings: environment variables, `.env`, an encrypted `.env`, and secret files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from dotenv import dotenv_values

from vllm_obtain.config import encrypted_file
from vllm_obtain.errors import SettingsError

# NAME_FILE is the path of a file with the value of NAME, as with container secrets.
SUFFIX = "_FILE"
# The service sets these itself for its processes, so both variables may be set.
_SET_BY_SERVICE = frozenset({"HOST", "PORT", "DEBUG"})


def gather(environ: Mapping[str, str], dotenv: Path | None, names: Iterable[str]) -> dict[str, str]:
    """Collect all variables.

    Args:
        environ: environment variables; they take precedence over the files.
        dotenv: path of a `.env` file, which takes precedence over the encrypted file beside it.
            Neither needs to exist.
        names: names of the settings, in capitals.

    Raises:
        SettingsError: a file cannot be read, or NAME and NAME_FILE are both set.
    """
    merged = dict(environ)
    if dotenv is not None:
        merged = {**plain(dotenv), **merged}
        key_file = merged.get(encrypted_file.KEY_FILE, "").strip()
        merged = {**encrypted_file.read(encrypted(dotenv), key_file), **merged}
    known = set(names)
    for name in known:
        variable = name + SUFFIX
        file = merged.get(variable, "").strip()
        if file and variable not in known:
            _read_secret(merged, name, file)
    return merged


def plain(dotenv: Path) -> dict[str, str]:
    """Read a `.env` file; a missing file is treated as empty.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        if not dotenv.is_file():
            return {}
        return {k: v for k, v in dotenv_values(dotenv).items() if v is not None}
    except (OSError, ValueError) as error:
        raise SettingsError(f"Cannot read {dotenv.absolute()}: {error}.") from None


def export_otel(dotenv: Path) -> None:
    """Export the OTEL_* variables of a `.env` file: the OpenTelemetry SDK reads the environment.

    Raises:
        SettingsError: the file cannot be read.
    """
    for name, value in plain(dotenv).items():
        if name.startswith("OTEL_"):
            os.environ.setdefault(name, value)


def encrypted(dotenv: Path) -> Path:
    """Path of the encrypted file that belongs to a `.env` file."""
    return dotenv.with_name(dotenv.name + encrypted_file.SUFFIX)


def _read_secret(merged: dict[str, str], name: str, file: str) -> None:
    if merged.get(name, "").strip():
        if name in _SET_BY_SERVICE:
            return
        raise SettingsError(f"{name} and {name}{SUFFIX} are both set. Remove one of them.")
    try:
        merged[name] = Path(file).expanduser().read_text().strip()
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"Cannot read {name}{SUFFIX}={file}: {reason}.") from None
