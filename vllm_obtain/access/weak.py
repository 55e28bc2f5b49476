"""Secrets that are easily had: files that others can read, keys that can be guessed."""

from __future__ import annotations

import stat
from pathlib import Path

from vllm_obtain.log import get_logger
from vllm_obtain.settings import Settings

log = get_logger("vllm_obtain.access_rules")


# A key of API_KEYS that is shorter can be guessed.
SHORT = 16


def warn(settings: Settings, dotenv: Path) -> None:
    """Warn of them, once per start.

    Args:
        settings: name the files, and have keys.
        dotenv: the `.env` file.
    """
    for place, token in enumerate(settings.tokens, 1):
        if len(token) < SHORT:
            log.warning("a key in API_KEYS is short enough to be guessed", place=place, least=SHORT)
    named = filter(None, [settings.config_key_file, settings.tls_keyfile])
    for path in (dotenv, settings.keys_file, *map(Path, named)):
        try:
            mode = path.expanduser().stat().st_mode
        except (OSError, RuntimeError):
            continue
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            log.warning(
                "other users of this machine can read a file with secrets: chmod 600 it",
                file=str(path.absolute()),
            )
