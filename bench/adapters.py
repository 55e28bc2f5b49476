"""The engines of the benchmark, as the service sees them (EXTRA_ENGINES=name=bench.adapters:…)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench import stub_server, tap
from vllm_obtain.catalogue import Model
from vllm_obtain.engines.base import Launch
from vllm_obtain.engines.llama_cpp import LlamaCpp
from vllm_obtain.hardware import Machine
from vllm_obtain.messages import Limits
from vllm_obtain.settings import Settings

TAP_LOG_VARIABLE = "BENCH_TAP_LOG"
_PYTHON = [sys.executable, "-S", "-E"]
# Never the limit of what is measured.
_LIMITS = Limits(slots=8192, pool_tokens=2**40, context=2**30)


class StubAdapter(LlamaCpp):
    """The stub engine; asked as llama.cpp is, so that the gateway does the same work for it."""

    name = "stub"

    def missing(self) -> str | None:
        """Be always there."""
        return None

    def refuses(self, model: Model) -> str | None:  # noqa: ARG002 - the base class's signature
        """Accept any model: its weights are never read."""
        return None

    def launch(self, model: Model, settings: Settings, machine: Machine, socket: Path) -> Launch:  # noqa: ARG002 - as above
        """Start `stub_server`."""
        return Launch([*_PYTHON, stub_server.__file__, str(socket)], _LIMITS)


class TappedLlamaCpp(LlamaCpp):
    """llama.cpp with a tap in front of its socket."""

    name = "tapped"

    def launch(self, model: Model, settings: Settings, machine: Machine, socket: Path) -> Launch:
        """Start `tap`, which starts the engine."""
        inner = socket.with_name(f"{socket.stem}-inner.sock")  # llama.cpp wants that ending
        made = super().launch(model, settings, machine, inner)
        log = os.environ[TAP_LOG_VARIABLE]
        command = [*_PYTHON, tap.__file__, str(socket), str(inner), log, *made.command]
        return Launch(command, made.limits, made.env)
