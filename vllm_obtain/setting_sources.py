"""Where settings come from: the environment, `.env`, an encrypted `.env`, and files of secrets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from dotenv import dotenv_values

from vllm_obtain import sealed
from vllm_obtain.errors import SettingsError

# What follows the name of a setting whose value is in a file, as containers give secrets.
SUFFIX = "_FILE"
# The service's own processes tell each other these, whatever they were.
_HANDED_ON = frozenset({"HOST", "PORT", "DEBUG"})


def gather(environ: Mapping[str, str], dotenv: Path | None, names: Iterable[str]) -> dict[str, str]:
    """Collect all variables.

    Args:
        environ: win over the files.
        dotenv: a `.env` file, which wins over the encrypted one beside it; neither need exist.
        names: of the settings, in capitals.

    Raises:
        SettingsError: a file cannot be read, or a setting is given twice.
    """
    merged = dict(environ)
    if dotenv is not None:
        merged = {**plain(dotenv), **merged}
        key_file = merged.get(sealed.KEY_FILE, "").strip()
        merged = {**sealed.read(encrypted(dotenv), key_file), **merged}
    known = set(names)
    for name in known:
        variable = name + SUFFIX
        file = merged.get(variable, "").strip()
        if file and variable not in known:
            _take(merged, name, file)
    return merged


def plain(dotenv: Path) -> dict[str, str]:
    """Read a `.env` file; one that does not exist is the same as an empty one.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        if not dotenv.is_file():
            return {}
        return {k: v for k, v in dotenv_values(dotenv).items() if v is not None}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{dotenv.absolute()} cannot be read: {error}.") from None


def encrypted(dotenv: Path) -> Path:
    """Name the encrypted file that stands for a `.env` file."""
    return dotenv.with_name(dotenv.name + sealed.SUFFIX)


def _take(merged: dict[str, str], name: str, file: str) -> None:
    if merged.get(name, "").strip():
        if name in _HANDED_ON:
            return
        raise SettingsError(
            f"{name} and {name}{SUFFIX} are both set, and only one can be meant: remove one."
        )
    try:
        merged[name] = Path(file).expanduser().read_text().strip()
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingsError(f"{name}{SUFFIX}={file} cannot be read: {why}.") from None
