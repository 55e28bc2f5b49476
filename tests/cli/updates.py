"""Commands and requests for updates of a small model."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.download.format_adapter import model
from tests.download.hubs import File, Hub
from tests.download.test_download import FILE, REPO
from tests.service import ROOT, Service
from tests.waiting import eventually

KEY = "vo-0123456789abcdef0123456789abcdef"
HEADERS = {"Authorization": f"Bearer {KEY}"}
Run = Callable[..., subprocess.CompletedProcess[str]]


def variables(source: Hub, models: Path) -> dict[str, str]:
    return {
        "MODELS_DIR": str(models),
        "HF_ENDPOINT": source.url,
        "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9",
        "INFERENCE_ENGINE": "picky",
        "EXTRA_ENGINES": "picky=tests.download.format_adapter:PickyAdapter",
    }


def runner(folder: Path, env: dict[str, str]) -> Run:
    def type_(*words: str, code: int = 0, script: str = "") -> subprocess.CompletedProcess[str]:
        start = [str(ROOT / script)] if script else ["-m", "vllm_obtain"]
        result = subprocess.run(
            [sys.executable, *start, *words],
            cwd=folder,
            env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result

    return type_


def publish(source: Hub, number: int, **switches: Any) -> None:
    source.repositories[REPO] = {FILE: File(model(**switches))}
    source.commit = str(number) * 40


def models(service: Service) -> Path:
    return service.folder / "models"


def engine(service: Service) -> Any:
    """The engine that serves, and what it is: its context tells the version."""
    status = service.json("/v1/system/status", headers=HEADERS)
    return next(each for each in status["engines"] if each["state"] == "ready")


class RequestLoop:
    """Somebody who asks the model all the time, and one whose answer takes long."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._over = threading.Event()
        self.answers: list[int] = []
        self.longest = 0.0
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> RequestLoop:
        self._thread.start()
        eventually(lambda: self.answers)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        while not self._over.is_set():
            began = time.monotonic()
            self.answers.append(
                self._service.request("/v1/chat/completions", {**body, "seed": len(self.answers)},
                                      HEADERS)[0]
            )  # fmt: skip
            self.longest = max(self.longest, time.monotonic() - began)
            self._over.wait(0.03)
