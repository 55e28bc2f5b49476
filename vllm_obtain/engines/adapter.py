"""The adapter interface: what the supervisor and the gateway need to know about an engine.

An engine is a command that serves OpenAI's HTTP API on a Unix socket. An adapter states how to
start it, which models and parameters it supports, and how to translate a request. It has no state
but the settings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from vllm_obtain.config.model_settings import ModelSettings
from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.engines import model_options
from vllm_obtain.engines.one_shot import OneShotRequests
from vllm_obtain.engines.step_counter import StepReading
from vllm_obtain.errors import UnsupportedParameter
from vllm_obtain.hardware.machine import Machine
from vllm_obtain.models import Model
from vllm_obtain.models.convert import Target
from vllm_obtain.protocol.cache_isolation import CacheIsolation
from vllm_obtain.protocol.engine_request import EngineRequest
from vllm_obtain.protocol.sampling_params import SamplingParams

# The route of OpenAI's API for prompts.
TEXT_PATH = "/v1/completions"


@dataclass(frozen=True)
class Sizing:
    """The capacity of an engine process, and the parameters that result in it.

    Only `limits` and `weights_bytes` are read outside the adapter; `launch` uses the rest.

    Args:
        limits: slots, context length and KV cache size, in tokens.
        parameters: parameters of the engine's program, by name.
        arguments: arguments for the command line of the engine's program.
        env: variables to add to the environment.
        weights_bytes: memory that the weights take; None if it equals their size on disk.
    """

    limits: EngineLimits
    parameters: Mapping[str, Any] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    weights_bytes: int | None = None


@dataclass(frozen=True)
class LaunchSpec:
    """How to start a process.

    Args:
        command: the program and its arguments.
        env: variables to add to the environment.
        folder: of the process's files, removed after its end; None for none.
    """

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


class Adapter(OneShotRequests, ABC):
    """One engine.

    Args:
        settings: the settings of the service; defaults if omitted.
    """

    name: ClassVar[str]
    # Request parameters that this engine honours. Any other one is rejected with a 400.
    parameters: ClassVar[frozenset[str]]
    # Whether it handles stop sequences exactly. If not, the gateway does.
    exact_stop_sequences: ClassVar[bool] = True
    # Whether it accepts images, with a vision model whose files it loads without conversion.
    supports_images: ClassVar[bool] = False
    # Whether it isolates the prefix caches of callers only by slot. Other engines take a salt.
    isolates_by_slot: ClassVar[bool] = False
    # Memory of a process beside weights and KV cache: libraries and buffers of a step.
    overhead_bytes: ClassVar[int] = 2**30
    # The format to convert GGUF files to, for an engine that does not load them.
    conversion: ClassVar[Target | None] = None

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load({})

    @abstractmethod
    def why_unavailable(self) -> str | None:
        """Return why this engine cannot run here and what to do, or None if it can."""

    @abstractmethod
    def why_not_loadable(self, model: Model) -> str | None:
        """Return why this engine cannot load a model, or None if it can."""

    def why_no_images(self, model: Model) -> str | None:
        """Return why this engine accepts no images with a model, as a sentence; None if it does."""
        if model.why_no_images:
            return model.why_no_images
        if not self.supports_images:
            return f"The engine {self.name} does not accept images."
        if self.why_not_loadable(model) is not None:
            return f"The engine {self.name} loads a converted copy of it, without image support."
        return None

    def unsupported_setting(self, model: Model) -> str | None:
        """Return which configured setting of a model this engine cannot honour, or None."""
        owner = self.settings.models.of(model.name)
        for key in model_options.engine_keys(owner):
            why = self.why_option_unsupported(key, owner, model)
            if key == "context":
                why = model_options.context_too_long(owner, model) or why
            if why is not None:
                return model_options.unsupported_message(key, owner, why)
        return None

    def why_option_unsupported(self, key: str, owner: ModelSettings, model: Model) -> str | None:  # noqa: ARG002
        """Return why this engine cannot honour a setting of a model, or None if it can.

        Args:
            key: a key of `model_options.KEYS` that is set.
            owner: the settings of the model.
            model: the model.
        """
        return f"{self.name} does not support it."

    @abstractmethod
    def plan(self, model: Model, settings: Settings, machine: Machine) -> Sizing:
        """Size the engine for a model. Has no side effects: a load plans several times.

        Args:
            model: the model to load.
            settings: the settings of the service.
            machine: the machine to run on, with the memory that the engine may use.

        Raises:
            ServiceError: the settings of the model do not fit this machine.
        """

    @abstractmethod
    def launch(self, model: Model, sizing: Sizing, socket: Path) -> LaunchSpec:
        """Build the command line and environment that start the engine with a model.

        Args:
            model: the model to load.
            sizing: the result of `plan` for this model.
            socket: path that the engine listens on; it does not exist yet.
        """

    @abstractmethod
    def body(self, engine_request: EngineRequest, max_tokens: int | None) -> dict[str, Any]:
        """Translate a request into the body that this engine expects at `path`.

        Args:
            engine_request: a request that `check` accepted. Its `params` have every default
                applied, so nothing is left to the engine's defaults.
            max_tokens: the most tokens to generate; None to fill the context.
        """

    def apply_cache_isolation(self, body: dict[str, Any], isolation: CacheIsolation) -> None:
        """Keep the prompt's prefix cache separate from that of other callers.

        Args:
            body: a body that `body` built; changed in place.
            isolation: salt and slot from the lease.
        """
        body["cache_salt"] = isolation.salt

    def path(self, engine_request: EngineRequest) -> str:  # noqa: ARG002 - some have several
        """Return the route that takes the body of a request."""
        return TEXT_PATH

    def conversion_of(self, model: Model) -> Target | None:
        """Return the format to convert a model's files to for this engine, or None."""
        return self.conversion if model.format == "gguf" and model.kind == "chat" else None

    def stage(self, line: str) -> str | None:  # noqa: ARG002 - most engines start quickly
        """Detect the start of a startup stage in a line of the engine's output.

        Returns:
            A few words for the status page, or None if the line does not begin a stage.
        """
        return None

    def read_steps(self, response: bytes) -> StepReading | None:  # noqa: ARG002 - not all count
        """Parse the engine's /metrics response; None if it has no step counter."""
        return None

    def check(self, engine_request: EngineRequest) -> None:
        """Reject parameters that this engine does not support.

        Raises:
            UnsupportedParameter: for the first such parameter.
        """
        for name in engine_request.params.client_params:
            if name not in self.parameters:
                raise UnsupportedParameter(
                    name, f"The engine {self.name} does not support this value. Remove it."
                )


def explicit_sampling(params: SamplingParams) -> dict[str, Any]:
    """Build the part of an engine's body that has the same names for all engines.

    All sampling parameters are sent explicitly, so engine defaults never apply.
    """
    return {
        "stream": True,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
    }
