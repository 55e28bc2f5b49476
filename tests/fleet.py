"""Services that whole parts of the suite share: one per engine, with the embedded model."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.service import ROOT, Service
from vllm_obtain.catalogue import Catalogue
from vllm_obtain.catalogue.convert import Target, plan
from vllm_obtain.engines.base import Adapter
from vllm_obtain.engines.registry import adapter
from vllm_obtain.settings import Settings

MODEL = "smollm2-135m"
VLLM_CONTEXT = 1024
SETTINGS = Settings.load({"VLLM_PYTHON": os.environ.get("VLLM_PYTHON", "")})
_EXTRA = {
    "vllm": {
        "VLLM_MAX_MODEL_LEN": str(VLLM_CONTEXT),
        # As on a machine with many cores, so that there are as many kinds of processes.
        "VLLM_EXTRA_ARGS": "--api-server-count 2",
    }
}
_START_SECONDS = 300


def engine(name: str) -> Adapter:
    """An engine's adapter, with what the environment says of its interpreter."""
    return adapter(name, SETTINGS)


class Fleet:
    """Starts a service when it is first asked for, and keeps it.

    Args:
        folder: makes new folders, by name.
    """

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder
        self._services: dict[str, Service] = {}
        self._models: dict[Target | None, Path] = {None: ROOT / "models"}

    def service(self, name: str) -> Service:
        """The service that answers with an engine."""
        if name not in self._services:
            env = {
                "MODELS_DIR": str(self.models(engine(name).conversion)),
                "INFERENCE_ENGINE": name,
                "DEFAULT_MODEL": MODEL,
                "ENABLE_CACHING": "false",
                **_EXTRA.get(name, {}),
            }
            service = Service(["run.py", "--no-fetch"], self._folder(name), env)
            service.start(timeout=_START_SECONDS)
            self._services[name] = service
        return self._services[name]

    def models(self, target: Target | None) -> Path:
        """A MODELS_DIR with the embedded model, as it is or converted."""
        if target not in self._models:
            assert target is not None
            self._models[target] = _convert(target, self._folder(f"models-{target}"))
        return self._models[target]

    def close(self) -> None:
        """End everything."""
        for service in self._services.values():
            service.kill_everything()


def _convert(target: Target, folder: Path) -> Path:
    (source,) = (ROOT / "models" / MODEL).glob("*.gguf")
    copy = Path(shutil.copy(source, folder))
    (model,) = Catalogue(folder).models()
    planned = plan(model, target)
    subprocess.run(planned.command, cwd=ROOT, check=True, capture_output=True)
    planned.folder.rename(folder / MODEL)
    copy.unlink()
    return folder
