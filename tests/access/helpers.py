"""What the tests of access have in common."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import ROOT, Service
from vllm_obtain.access import api_key as keys
from vllm_obtain.access import key_store

HI = [{"role": "user", "content": "one two three"}]
CHAT = {"model": "fine", "messages": HI, "max_tokens": 8}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class KeyedService(Service):
    """A service that needs keys, with one for text and one for everything.

    Args:
        folder: for its models, logs and keys.
        env: more settings.
        command: how to start it.
        keyed: whether there are keys from the start.
    """

    def __init__(
        self,
        folder: Path,
        env: dict[str, str] | None = None,
        command: tuple[str, ...] = ("run.py", "--no-fetch"),
        keyed: bool = True,
    ) -> None:
        models = folder / "models"
        models.mkdir(exist_ok=True)
        write_model(models, "fine")
        self.keys_file = folder / "keys.json"
        if keyed:
            self.user, self.user_id = self.key("inference")
            self.admin, self.admin_id = self.key("admin")
        variables = {
            **ENVIRONMENT,
            "MODELS_DIR": str(models),
            "KEYS_FILE": str(self.keys_file),
            "DEFAULT_MODEL": "fine",
            **(env or {}),
        }
        super().__init__(list(command), folder, variables)

    def key(self, scope: Any, **more: Any) -> tuple[str, str]:
        """Make a key; what a client sends, and its id."""
        token, made = keys.new([scope], **more)
        key_store.change(self.keys_file, lambda known: [*known, made])
        return token, made.id

    def ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: Any = None,
        host: str = "127.0.0.1",
    ) -> tuple[int, dict[str, str], bytes]:
        """One request by any method; header names come in lower case."""
        line = http.client.HTTPConnection(host, self.port, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            line.request(method, path, data, headers or {})
            answer = line.getresponse()
            got = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, got, answer.read()
        finally:
            line.close()

    def status_of(self, headers: dict[str, str], path: str = "/v1/models") -> int:
        return self.ask("GET", path, headers)[0]


def command(*words: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> Any:
    """Run a command of ours to its end."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )
