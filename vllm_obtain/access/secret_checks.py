"""Warns about world-readable secret files and weak API keys."""

from __future__ import annotations

import stat
from pathlib import Path

from vllm_obtain.config.settings import Settings
from vllm_obtain.logs.setup import get_logger

log = get_logger("vllm_obtain.access_rules")


# A shorter key in API_KEYS can be guessed.
MIN_LENGTH = 16


def warn(settings: Settings, dotenv: Path) -> None:
    """Log a warning for each weak secret. Called once per start.

    Args:
        settings: the service's settings, with keys and file paths.
        dotenv: path of the `.env` file.
    """
    for place, token in enumerate(settings.tokens, 1):
        if len(token) < MIN_LENGTH:
            log.warning("short key found in API_KEYS", place=place, minimum=MIN_LENGTH)
    paths = filter(None, [settings.config_key_file, settings.tls_keyfile])
    for path in (dotenv, settings.keys_file, *map(Path, paths)):
        try:
            mode = path.expanduser().stat().st_mode
        except (OSError, RuntimeError):
            continue
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            log.warning(
                "secret file exposed",
                file=str(path.absolute()),
                reason="readable by other users",
                action="run chmod 600",
            )
