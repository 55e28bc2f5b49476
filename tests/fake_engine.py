"""The adapter of the fake engine, and how a test makes models for it.

    INFERENCE_ENGINE=fake EXTRA_ENGINES=fake=tests.fake_engine:FakeAdapter

What a model's process does is said by a JSON file beside it, read when the process starts; see
`fake_engine_server.Switches` for what can be said. Copy this to test a service of your own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests import fake_engine_server
from tests.fake_engine_server import Switches
from tests.models.gguf_files import write_gguf
from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.engines.adapter import LaunchSpec, Sizing
from vllm_obtain.engines.llama_cpp.adapter import LlamaCpp
from vllm_obtain.hardware.machine import Machine
from vllm_obtain.models import Model

ENVIRONMENT = {
    "INFERENCE_ENGINE": "fake",
    "EXTRA_ENGINES": "fake=tests.fake_engine:FakeAdapter, other=tests.fake_engine:OtherAdapter",
    "DEVICE_TYPE": "cpu",
}


class FakeAdapter(LlamaCpp):
    """Accepts every model; asks and is asked as llama.cpp."""

    name = "fake"
    overhead_bytes = 16 * 2**20

    def why_unavailable(self) -> str | None:
        """Say that it is there."""
        return None

    def why_not_loadable(self, model: Model) -> str | None:  # noqa: ARG002 - an adapter's signature
        """Accept every model."""
        return None

    def plan(
        self,
        model: Model,
        settings: Settings,  # noqa: ARG002 - an adapter's signature
        machine: Machine,  # noqa: ARG002 - an adapter's signature
    ) -> Sizing:
        """The limits that the switches state."""
        switches = Switches.read(self.switches(model))
        return Sizing(EngineLimits(switches.slots, switches.pool_tokens, switches.context))

    def launch(
        self,
        model: Model,
        sizing: Sizing,  # noqa: ARG002 - an adapter's signature
        socket: Path,
    ) -> LaunchSpec:
        """Start `fake_engine_server` with the switches."""
        command = [sys.executable, "-P", "-S", fake_engine_server.__file__]
        return LaunchSpec([*command, str(socket), str(self.switches(model))])

    def switches(self, model: Model) -> Path | str:
        """The switches of a model: the file beside it, or their JSON."""
        return switches_file(model.path, self.name)

    def stage(self, line: str) -> str | None:
        """Read what it prints as `stage: words`."""
        head, _, words = line.partition("stage: ")
        return words if not head and words else None


class OtherAdapter(FakeAdapter):
    """The fake engine under another name, with switches of its own."""

    name = "other"


class ConvertingAdapter(FakeAdapter):
    """The fake engine for converted folders; finds its switches beside the GGUF file."""

    name = "converting"
    conversion = "mlx"

    def why_not_loadable(self, model: Model) -> str | None:
        """Accept folders only."""
        return "it needs a folder." if model.format == "gguf" else None


def switches_file(model: Path, engine: str = "fake") -> Path:
    """Where the switches of a model on an engine are."""
    if model.parent.name == ".converted":
        model = model.parent.parent / model.name.replace("-mlx-", ".gguf-").rpartition("-")[0]
    return model.with_name(f"{model.name}.json" if engine == "fake" else f"{model.name}.{engine}")


def write_model(folder: Path, name: str, engine: str = "fake", **switches: Any) -> Path:
    """Make a model for the fake engine, or set the switches of one that is there.

    Args:
        folder: MODELS_DIR.
        name: the model's name.
        engine: which of the fake engines is meant.
        switches: see `Switches`; those left out are as if never set.
    """
    path = folder / f"{name}.gguf"
    if not path.exists():
        write_gguf(path)
    Switches(**switches)
    switches_file(path, engine).write_text(json.dumps(switches, default=str))
    return path
