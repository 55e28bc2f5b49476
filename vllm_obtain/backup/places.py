"""What is kept, and where it is on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vllm_obtain.catalogue.convert.plan import FOLDER as CONVERTED
from vllm_obtain.fetching import placing, workplace
from vllm_obtain.setting_sources import encrypted
from vllm_obtain.settings import Settings

# What is half done, or is made anew when it is needed.
_SKIPPED: Final = (workplace.PREFIX, placing.BIN, placing.PREFIX, CONVERTED)


@dataclass(frozen=True)
class Place:
    """A file, or a folder with all that is in it.

    Args:
        name: what it is called in a backup.
        path: where it is here.
    """

    name: str
    path: Path

    def files(self) -> Iterator[str]:
        """List the files and links by their paths below the folder; "" for a file itself."""
        if not self.path.is_dir():
            if self.path.is_file():
                yield ""
            return
        for folder, folders, names in os.walk(self.path):
            folders[:] = sorted(each for each in folders if not each.startswith(_SKIPPED))
            # A link to a folder is told among the folders, and is not gone into.
            links = [each for each in folders if (Path(folder) / each).is_symlink()]
            for name in sorted([*names, *links]):
                if not name.startswith(_SKIPPED) and not name.endswith(".lock"):
                    yield str((Path(folder) / name).relative_to(self.path))

    def at(self, path: str) -> Path:
        """Find one of its files on this machine."""
        return self.path / path if path else self.path


def places(settings: Settings, dotenv: Path, models: bool = True, logs: bool = True) -> list[Place]:
    """List what a service consists of, besides its program.

    Args:
        settings: the owner's.
        dotenv: the file `.env`.
        models: whether MODELS_DIR is one of them.
        logs: whether LOG_DIR is.
    """
    found = [
        Place("env", dotenv.absolute()),
        Place("env-encrypted", encrypted(dotenv).absolute()),
        Place("model-settings", settings.model_settings),
        Place("keys", settings.keys_file),
    ]
    if models:
        found.append(Place("models", settings.models_dir))
    else:  # the names are among the models, but the owner's work, and small
        found.append(Place("names", settings.models_dir / "catalogue.toml"))
    if logs:
        found.append(Place("logs", settings.log_dir))
    return found
