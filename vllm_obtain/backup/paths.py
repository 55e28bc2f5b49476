"""The files and folders that belong to a backup."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vllm_obtain.config.settings import Settings
from vllm_obtain.config.sources import encrypted
from vllm_obtain.download import install, staging
from vllm_obtain.models.convert.plan import FOLDER as CONVERTED

# Partial downloads, trash, previous versions, and conversions, which can be created again.
_SKIPPED: Final = (staging.PREFIX, install.BIN, install.PREFIX, CONVERTED)


@dataclass(frozen=True)
class BackupPath:
    """A file or folder that belongs to a backup.

    Args:
        name: its name in the backup.
        path: its path on this machine.
    """

    name: str
    path: Path

    def files(self) -> Iterator[str]:
        """List the files and links as paths relative to the folder; "" if this is a file."""
        if not self.path.is_dir():
            if self.path.is_file():
                yield ""
            return
        for folder, folders, names in os.walk(self.path):
            folders[:] = sorted(each for each in folders if not each.startswith(_SKIPPED))
            # os.walk lists a link to a folder among the folders and does not follow it.
            links = [each for each in folders if (Path(folder) / each).is_symlink()]
            for name in sorted([*names, *links]):
                if not name.startswith(_SKIPPED) and not name.endswith(".lock"):
                    yield str((Path(folder) / name).relative_to(self.path))

    def at(self, path: str) -> Path:
        """Return the local path of one of its files."""
        return self.path / path if path else self.path


def backup_paths(
    settings: Settings, dotenv: Path, models: bool = True, logs: bool = True
) -> list[BackupPath]:
    """List the files and folders of a service.

    Args:
        settings: the service settings.
        dotenv: the path of `.env`.
        models: whether to include MODELS_DIR.
        logs: whether to include LOG_DIR.
    """
    paths = [
        BackupPath("env", dotenv.absolute()),
        BackupPath("env-encrypted", encrypted(dotenv).absolute()),
        BackupPath("model-settings", settings.model_settings),
        BackupPath("keys", settings.keys_file),
    ]
    if models:
        paths.append(BackupPath("models", settings.models_dir))
    else:  # catalogue.toml lies in MODELS_DIR, but it is small and written by the user
        paths.append(BackupPath("names", settings.models_dir / "catalogue.toml"))
    if logs:
        paths.append(BackupPath("logs", settings.log_dir))
    return paths
