"""Response types of the management routes; descriptions.toml describes their fields."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from vllm_obtain.control.messages import EngineStatus, EngineSwitch
from vllm_obtain.hardware.machine import Machine
from vllm_obtain.models.kind import Kind


class ErrorDetail(Struct):
    """The details of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct):
    """An error in OpenAI's format."""

    error: ErrorDetail


class Health(Struct):
    """Liveness of the gateway."""

    status: str


class Ready(Struct):
    """Readiness of the service."""

    status: str
    reason: str | UnsetType = UNSET


class Version(Struct):
    """The version of this service."""

    version: str


class Capabilities(Struct):
    """Capabilities of a model."""

    chat_template: str
    tools: str
    reasoning: bool
    structured_output: bool
    vision: bool
    vision_reason: str | None


class ModelBody(Struct):
    """A model, with OpenAI's fields and those of this service."""

    id: str
    created: int
    root: str
    parent: str | None
    alias_of: str | None
    aliases: list[str]
    kind: Kind
    format: str
    size_bytes: int
    architecture: str | None
    context_length: int | None
    capabilities: Capabilities | None
    loadable: bool
    reason: str | None
    object: str = "model"
    owned_by: str = "local"


class ModelList(Struct):
    """All models of the service."""

    data: list[ModelBody]
    object: str = "list"


class ModelState(Struct):
    """State of a model."""

    model: str
    engine: str
    state: str


class ModelStage(ModelState):
    """State of a model that is loading."""

    stage: str | None = None


class GatewayStatus(Struct):
    """The worker that sent the response, and the number of workers."""

    pid: int
    workers: int


class SupervisorStatus(Struct):
    """The process that owns the engines."""

    pid: int


class EngineHere(Struct):
    """An engine and its availability on this machine."""

    available: bool
    engine: str
    installed: bool
    version: str | None
    device: str | None
    reason: str | None
    install: str | None
    then: str | None
    note: str | None
    python: str | None


class ModelSettingsStatus(Struct):
    """MODEL_SETTINGS: the file, effective settings, and entries without effect."""

    file: str
    found: bool
    models: dict[str, dict[str, Any]]
    unknown_models: list[str]
    hidden_aliases: list[str]


class StatusBody(Struct):
    """Status of the service."""

    version: str
    uptime_seconds: float
    gateway: GatewayStatus
    supervisor: SupervisorStatus
    machine: Machine
    system: dict[str, float]
    requests_in_flight: int
    response_cache: dict[str, int]
    kept_responses: dict[str, int]
    memory: dict[str, int]
    engines: list[EngineStatus]
    handovers: list[EngineSwitch]
    engines_available: list[EngineHere]
    model_engines: dict[str, str]
    model_settings: ModelSettingsStatus
