"""What an engine is: a command that serves OpenAI's HTTP on a Unix socket, and a table of what
it can do. An adapter keeps the settings and nothing else; the supervisor asks it how to start,
the gateway how to ask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from vllm_obtain.catalogue import Model
from vllm_obtain.catalogue.convert import Target
from vllm_obtain.engines import honour
from vllm_obtain.engines.plain import Plain
from vllm_obtain.engines.vitals import Vitals
from vllm_obtain.errors import UnsupportedParameter
from vllm_obtain.hardware import Machine
from vllm_obtain.messages import Limits
from vllm_obtain.model_settings import ModelSettings
from vllm_obtain.protocol.apart import Apart
from vllm_obtain.protocol.requests import InferenceFields, demands
from vllm_obtain.protocol.task import Task
from vllm_obtain.settings import Settings


@dataclass(frozen=True)
class Launch:
    """How to start an engine process.

    Args:
        command: the program and its arguments.
        limits: what the process will be able to hold.
        env: variables to add to the environment.
        weights_bytes: what the weights take in memory, None for as much as on disk.
    """

    command: Sequence[str]
    limits: Limits
    env: Mapping[str, str] = field(default_factory=dict)
    weights_bytes: int | None = None


class Adapter(Plain, ABC):
    """One engine.

    Args:
        settings: the owner's settings; the defaults when left out.
    """

    name: ClassVar[str]
    # Request parameters that this engine honours; any other one is a 400 that names it.
    parameters: ClassVar[frozenset[str]]
    # Whether it ends answers at stop texts as it should; if not, the gateway does.
    keeps_stops: ClassVar[bool] = True
    # Whether it takes images, with a model that can see and files that it loads as they are.
    sees: ClassVar[bool] = False
    # Whether it keeps callers apart only by the slots that they use; the others take a salt.
    pins_slots: ClassVar[bool] = False
    # What a process takes beside weights and cache: its libraries, and buffers for a step.
    overhead_bytes: ClassVar[int] = 2**30
    # What a GGUF file can be made into for this engine, when it loads none itself.
    conversion: ClassVar[Target | None] = None

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load({})

    @abstractmethod
    def missing(self) -> str | None:
        """Say why this engine cannot run here and what to do, or None when it can."""

    @abstractmethod
    def refuses(self, model: Model) -> str | None:
        """Say why this engine cannot load a model, or None when it can."""

    def blind(self, model: Model) -> str | None:
        """Say why this engine takes no images with a model, in a sentence; None when it does."""
        if model.blind:
            return model.blind
        if not self.sees:
            return f"The engine {self.name} reads text only."
        if self.refuses(model) is not None:
            return f"The engine {self.name} loads a copy of it that was made without its images."
        return None

    def dishonours(self, model: Model) -> str | None:
        """Say which of the owner's settings of a model this engine cannot honour, or None."""
        owner = self.settings.models.of(model.name)
        for key in honour.wanted(owner):
            why = self.cannot(key, owner, model)
            if key == "context":
                why = honour.context_too_long(owner, model) or why
            if why is not None:
                return honour.said(key, owner, why)
        return None

    def cannot(self, key: str, owner: ModelSettings, model: Model) -> str | None:  # noqa: ARG002
        """Say why this engine cannot honour a setting of a model, or None when it can.

        Args:
            key: one of `honour.KEYS` that is set.
            owner: what is set for the model.
            model: the model.
        """
        return f"{self.name} does not support it."

    @abstractmethod
    def launch(self, model: Model, settings: Settings, machine: Machine, socket: Path) -> Launch:
        """Work out how to start the engine with a model.

        Args:
            model: what to load.
            settings: the owner's settings.
            machine: what there is to run on.
            socket: where the engine shall listen; does not exist yet.
        """

    @abstractmethod
    def body(self, task: Task, max_tokens: int | None) -> dict[str, Any]:
        """Translate a task into the body this engine understands, to be sent to `path`.

        Args:
            task: checked by `check`.
            max_tokens: the most tokens to generate, or None for as many as the context holds.
        """

    def keep_apart(self, body: dict[str, Any], apart: Apart) -> None:
        """Have a prompt share nothing with other callers'.

        Args:
            body: of `body`, changed in place.
            apart: what the lease says of that.
        """
        body["cache_salt"] = apart.salt

    def path(self, task: Task) -> str:  # noqa: ARG002 - engines may have several
        """The route that takes a task's body."""
        return "/v1/completions"

    def conversion_of(self, model: Model) -> Target | None:
        """Name what a model's files can be made into for this engine, which refuses them."""
        return self.conversion if model.format == "gguf" and model.kind == "chat" else None

    def stage(self, line: str) -> str | None:  # noqa: ARG002 - most engines start too fast to tell
        """Read from a line of the engine's output which part of its start has begun.

        Returns:
            A few words for the status page, or None when the line says nothing about it.
        """
        return None

    def vitals(self, answer: bytes) -> Vitals | None:  # noqa: ARG002 - an engine may not count
        """Read what the engine answered at /metrics, None when it does not tell its steps."""
        return None

    def check(self, task: Task) -> None:
        """Refuse what this engine cannot honour.

        Raises:
            UnsupportedParameter: the first such parameter.
        """
        for name in demands(task.request):
            if name not in self.parameters:
                raise UnsupportedParameter(
                    name, f"The engine {self.name} does not support this value; leave it out."
                )


def spelled_out(request: InferenceFields) -> dict[str, Any]:
    """Begin an engine's body with the sampling values that all engines know by the same names.

    Every one is there, so that no default of an engine's has a say.
    """
    sampling = request.sampling
    return {
        "stream": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": request.presence_penalty or 0.0,
        "frequency_penalty": request.frequency_penalty or 0.0,
    }
