"""Services on the fake engine that modules share: each adds models under names of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fake_engine import ENVIRONMENT, write_model
from tests.models.gguf_files import write_gguf
from tests.service import Service
from tests.waiting import eventually

# Seconds.
PULSE = 0.2
IMPATIENT = 2


class Fakes(Service):
    """A running service to which models are added; nothing may kill or stop its processes.

    Args:
        folder: for its models and logs, and for the files of the tests.
        command: starts it.
        env: more settings.
    """

    def __init__(
        self, folder: Path, command: Sequence[str] = ("run.py", "--no-fetch"), **env: str
    ) -> None:
        self.models = folder / "models"
        self.models.mkdir(parents=True)
        write_model(self.models, "fine")
        variables = {
            **ENVIRONMENT,
            "MODELS_DIR": str(self.models),
            "DEFAULT_MODEL": "fine",
            "MAX_CONCURRENT_MODELS": "64",
            "STREAM_PULSE": str(PULSE),
            # A client of this address is a proxy.
            "TRUSTED_PROXIES": "127.0.0.2",
        }
        super().__init__([*command], folder, {**variables, **env})

    def add(self, name: str, header: dict[str, Any] | None = None, **switches: Any) -> str:
        """Add a model, with what its engine does; returns its name."""
        if header is not None:
            write_gguf(self.models / f"{name}.gguf", header)
        write_model(self.models, name, **switches)
        eventually(lambda: name in [model["id"] for model in self.json("/v1/models")["data"]])
        return name
