"""Engine adapters of the benchmark (EXTRA_ENGINES=name=bench.adapters:…)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench import stub_server, timing_proxy
from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.engines.adapter import LaunchSpec, Sizing
from vllm_obtain.engines.llama_cpp.adapter import LlamaCpp
from vllm_obtain.hardware.machine import Machine
from vllm_obtain.models import Model

TIMING_LOG_VARIABLE = "BENCH_TIMING_LOG"
_PYTHON = [sys.executable, "-S", "-E"]
# High enough never to limit a measurement.
_LIMITS = EngineLimits(slots=8192, pool_tokens=2**40, context=2**30)


class StubAdapter(LlamaCpp):
    """The stub engine. It has llama.cpp's protocol, so the gateway does the same work for it."""

    name = "stub"

    def why_unavailable(self) -> str | None:
        """Return None: the stub is always available."""
        return None

    def why_not_loadable(self, model: Model) -> str | None:  # noqa: ARG002 - the base class's signature
        """Return None: the stub does not read weights."""
        return None

    def plan(
        self,
        model: Model,  # noqa: ARG002 - as above
        settings: Settings,  # noqa: ARG002 - as above
        machine: Machine,  # noqa: ARG002 - as above
    ) -> Sizing:
        """Return limits that are never reached."""
        return Sizing(_LIMITS)

    def launch(
        self,
        model: Model,  # noqa: ARG002 - as above
        sizing: Sizing,  # noqa: ARG002 - as above
        socket: Path,
    ) -> LaunchSpec:
        """Start `stub_server`."""
        return LaunchSpec([*_PYTHON, stub_server.__file__, str(socket)])


class TimedLlamaCpp(LlamaCpp):
    """llama.cpp behind the timing proxy."""

    name = "timed"

    def launch(self, model: Model, sizing: Sizing, socket: Path) -> LaunchSpec:
        """Start `timing_proxy`, which starts the engine."""
        inner = socket.with_name(f"{socket.stem}-inner.sock")  # llama.cpp wants that ending
        engine = super().launch(model, sizing, inner)
        log = os.environ[TIMING_LOG_VARIABLE]
        command = [*_PYTHON, timing_proxy.__file__, str(socket), str(inner), log, *engine.command]
        return LaunchSpec(command, engine.env)
