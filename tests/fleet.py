"""Services that whole parts of the suite share, one per engine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests import small_model
from tests.service import ROOT, Service
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.engines.registry import adapter
from vllm_obtain.models import ModelCatalog
from vllm_obtain.models.convert import Target, plan

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
# A token of the embedded model takes MLX 0.1 s on a processor, and one of a small model hardly any.
_SMALL = {"mlx"}
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
        self._services: dict[tuple[str, bool], Service] = {}
        self._models: dict[Target | None, Path] = {None: ROOT / "models"}
        self._small: Path | None = None

    def service(self, name: str, real: bool = True) -> Service:
        """The service that answers with an engine.

        Args:
            name: the engine's.
            real: whether it has the embedded model, which speaks English; otherwise, for an engine
                that is slow here, a small model of the same name and tokenizer.
        """
        key = (name, real or name not in _SMALL)
        if key not in self._services:
            env = {
                "MODELS_DIR": str(self.models(engine(name).conversion, real)),
                "INFERENCE_ENGINE": name,
                "DEFAULT_MODEL": MODEL,
                "ENABLE_CACHING": "false",
                **_EXTRA.get(name, {}),
            }
            service = Service(["run.py", "--no-fetch"], self._folder(name), env)
            service.start(timeout=_START_SECONDS)
            self._services[key] = service
        return self._services[key]

    def models(self, target: Target | None, real: bool = True) -> Path:
        """A MODELS_DIR with the embedded model, as it is or converted; or with a small one."""
        if target in _SMALL and not real:
            if self._small is None:
                self._small = self._folder("models-small")
                small_model.write(self._small / MODEL, self.models(target) / MODEL)
            return self._small
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
    (model,) = ModelCatalog(folder).models()
    planned = plan(model, target)
    subprocess.run(planned.command, cwd=ROOT, check=True, capture_output=True)
    planned.folder.rename(folder / MODEL)
    copy.unlink()
    return folder
