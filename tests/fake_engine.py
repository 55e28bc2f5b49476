"""An engine that misbehaves on demand. Switches stand in `<model file>.json`; see `Switches`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tests import fake_engine_server
from vllm_obtain.catalogue import Model
from vllm_obtain.engines.base import Adapter, Launch
from vllm_obtain.engines.llama_cpp import LlamaCpp
from vllm_obtain.hardware import Machine
from vllm_obtain.messages import Limits
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest
from vllm_obtain.settings import Settings


@dataclass(frozen=True)
class Switches:
    """What the engine does wrong. Paths are of files; a warm-up request is always answered."""

    slots: int = 8
    pool_tokens: int = 8192
    context: int = 2048
    # Before it is ready.
    slow_start: str = ""  # wait until this file is there
    never_ready: bool = False  # answer 503 for ever
    print_at_start: tuple[str, ...] = ()
    exit_at_start: int | None = None
    grandchild: str = ""  # start a child that sleeps, and write its pid here
    ignore_sigterm: bool = False
    # With a request.
    crash_before_first_byte: bool = False
    crash_after_tokens: int | None = None
    crash_once: str = ""  # the crash above happens unless this file is there, and makes it
    hang_before_first_byte: str = ""  # until this file is there
    hang_after_tokens: int | None = None
    error: dict[str, Any] | None = None  # the error object to answer with
    error_status: int = 500
    garbage_chunk: bool = False
    pace: float = 0.0  # seconds between tokens
    barrier: int = 0  # answer only when so many requests are there at once
    request_log: str = ""  # a line for each request: how it ended


def switches_of(model: Path) -> Switches:
    """Read a model's switches."""
    path = Path(f"{model}.json")
    given = json.loads(path.read_text()) if path.exists() else {}
    known = {field.name for field in fields(Switches)}
    return Switches(**{name: value for name, value in given.items() if name in known})


class FakeAdapter(Adapter):
    """Loads anything, promises what llama.cpp does, and asks in the same words."""

    name = "fake"
    parameters = LlamaCpp.parameters

    def missing(self) -> str | None:
        return None

    def refuses(self, model: Model) -> str | None:  # noqa: ARG002 - it takes anything
        return None

    def launch(
        self,
        model: Model,
        settings: Settings,  # noqa: ARG002 - its switches say it all
        machine: Machine,  # noqa: ARG002 - as above
        socket: Path,
    ) -> Launch:
        switches = switches_of(model.path)
        command = [sys.executable, "-u", "-P", "-S", fake_engine_server.__file__]
        return Launch(
            [*command, str(socket), f"{model.path}.json"],
            Limits(switches.slots, switches.pool_tokens, switches.context),
        )

    def chat_body(self, request: ChatRequest, max_tokens: int | None) -> dict[str, Any]:
        return LlamaCpp().chat_body(request, max_tokens)

    def completion_body(self, request: CompletionRequest, max_tokens: int | None) -> dict[str, Any]:
        return LlamaCpp().completion_body(request, max_tokens)
