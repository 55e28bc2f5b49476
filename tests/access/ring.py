"""A keychain in a file, for tests: PYTHON_KEYRING_BACKEND=tests.access.ring.Ring."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked


class Ring(KeyringBackend):
    """Keeps what it is told in the file RING_FILE; locked when that is a folder."""

    priority = 1

    def _all(self) -> dict[str, str]:
        path = Path(os.environ["RING_FILE"])
        if path.is_dir():
            raise KeyringLocked("it is locked")
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def get_password(self, service: str, username: str) -> str | None:
        return self._all().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        known = self._all() | {f"{service}/{username}": password}
        Path(os.environ["RING_FILE"]).write_text(json.dumps(known))

    def delete_password(self, service: str, username: str) -> None:
        raise NotImplementedError
