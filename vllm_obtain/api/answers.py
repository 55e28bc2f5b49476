"""The answers of the routes that are not inference; their fields are told in descriptions.toml."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from vllm_obtain.catalogue.kinds import Kind
from vllm_obtain.hardware import Machine
from vllm_obtain.messages import EngineStatus, Handover


class ErrorDetail(Struct):
    """What went wrong and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct):
    """Every error, in OpenAI's shape: always the same four keys."""

    error: ErrorDetail


class Health(Struct):
    """The gateway lives."""

    status: str


class Ready(Struct):
    """Whether a request would be answered."""

    status: str
    reason: str | UnsetType = UNSET


class Version(Struct):
    """The version of this service."""

    version: str


class Capabilities(Struct):
    """What a model can do, as its chat template tells."""

    chat_template: str
    tools: str
    reasoning: bool
    structured_output: bool
    vision: bool
    vision_reason: str | None


class ModelBody(Struct):
    """A model as OpenAI describes one, and what else is known of it."""

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
    """Where a model is after it was loaded or unloaded."""

    model: str
    engine: str
    state: str


class ModelStage(ModelState):
    """Where a model is on its way."""

    stage: str | None = None


class GatewayStatus(Struct):
    """The process that answered, and how many there are."""

    pid: int
    workers: int


class SupervisorStatus(Struct):
    """The process that owns the engines."""

    pid: int


class EngineHere(Struct):
    """An engine, whether this machine can run it, and what to do if not."""

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
    """MODEL_SETTINGS: the file, what holds for each model, and what means nothing."""

    file: str
    found: bool
    models: dict[str, dict[str, Any]]
    unknown_models: list[str]
    hidden_aliases: list[str]


class StatusBody(Struct):
    """Everything that is going on."""

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
    handovers: list[Handover]
    engines_available: list[EngineHere]
    model_engines: dict[str, str]
    model_settings: ModelSettingsStatus
