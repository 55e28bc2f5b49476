"""Routes that list and show models in Ollama's format."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Response
from msgspec import UNSET

from vllm_obtain.control.messages import EngineStatus, Status, StatusReply
from vllm_obtain.engines import vision
from vllm_obtain.engines.selection import why_not_servable
from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import Services, current_services
from vllm_obtain.gateway.inference.context import prepared_within
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.gateway.ollama.request_types import ShowBody
from vllm_obtain.gateway.ollama.response_types import (
    Details,
    ListedModel,
    ModelAnswer,
    RunningAnswer,
    RunningModel,
    TagsAnswer,
    VersionAnswer,
    moment,
)
from vllm_obtain.gateway.ollama.translate import LATEST
from vllm_obtain.hardware.machine import describe
from vllm_obtain.models import Model
from vllm_obtain.protocol.parsing import decode

# Version of Ollama whose API is implemented; clients check it before they use new features.
VERSION = "0.32.15"
# Models stay loaded until their memory is needed, but clients expect a time.
NEVER = "9999-12-31T23:59:59Z"

_show = msgspec.json.Decoder(ShowBody)


def tags() -> Response:
    """GET /api/tags: the loadable models."""
    services = current_services()
    usable = [
        model
        for model in services.catalogue.models()
        if why_not_servable(model, services.settings) is None
    ]
    return reply(TagsAnswer([_listed(model) for model in usable]))


def show() -> Response:
    """POST /api/show: details of a model."""
    body = decode(read_body(), _show)
    if body.verbose:
        raise UnsupportedParameter(
            "verbose", "Tensors and vocabularies are not listed; remove the field."
        )
    name = body.model or body.name
    if not name:
        raise InvalidRequest(
            "Missing required parameter: 'model'.",
            param="model",
            code="missing_required_parameter",
        )
    model = current_services().catalogue.find(name)
    return reply(
        ModelAnswer(
            details=_details(model),
            model_info=_info(model),
            capabilities=_capabilities(current_services(), model),
            modified_at=moment(model.modified),
        )
    )


def _capabilities(services: Services, model: Model) -> list[str]:
    """Return the capabilities of a model; every chat model supports tools here."""
    if model.kind == "embedding":
        return ["embedding"]
    with prepared_within(services, services.settings.request_timeout):
        reasons = services.chat_format(model).marks is not None
    accepts_images = vision.why_not(model, services.settings) is None
    return ["completion", "tools", *["thinking"] * reasons, *["vision"] * accepts_images]


def ps() -> Response:
    """GET /api/ps: the loaded models."""
    services = current_services()
    status = services.supervisor.request(Status(), StatusReply)
    models = {model.name: model for model in services.catalogue.models()}
    engines = [
        engine for engine in status.engines if engine.state == "ready" and engine.model in models
    ]
    on_gpu = _on_gpu(services)
    return reply(
        RunningAnswer([_running(engine, models[engine.model], on_gpu) for engine in engines])
    )


def version() -> Response:
    """GET /api/version."""
    return reply(VersionAnswer(VERSION))


def context_of(services: Services, model: Model) -> int | None:
    """Return the context length of a loaded model, or the trained one of another model."""
    for engine in services.supervisor.request(Status(), StatusReply).engines:
        if engine.model == model.name and engine.state == "ready" and engine.context:
            return engine.context
    return model.context_length


def _tagged(name: str) -> str:
    return name if ":" in name else name + LATEST


def _listed(model: Model) -> ListedModel:
    name = _tagged(model.name)
    return ListedModel(
        name=name,
        model=name,
        modified_at=moment(model.modified),
        size=model.size_bytes,
        digest=model.revision,
        details=_details(model),
    )


def _running(engine: EngineStatus, model: Model, on_gpu: bool) -> RunningModel:
    name, size = _tagged(model.name), engine.memory_bytes or model.size_bytes
    return RunningModel(
        name=name,
        model=name,
        size=size,
        digest=model.revision,
        details=_details(model),
        expires_at=NEVER,
        size_vram=size if on_gpu else 0,
        context_length=engine.context or UNSET,
    )


def _on_gpu(services: Services) -> bool:
    device = services.settings.device_type
    return (describe().device if device == "auto" else device) != "cpu"


def _details(model: Model) -> Details:
    family = model.architecture or ""
    return Details(
        format=model.format,
        family=family,
        families=[family] if family else [],
        parameter_size="",
        quantization_level=(model.header.quantisation if model.header else None) or "",
    )


def _info(model: Model) -> dict[str, Any]:
    """Return metadata of a model with the keys of GGUF files."""
    family, header = model.architecture or "", model.header
    facts: dict[str, Any] = {
        "general.architecture": family,
        f"{family}.context_length": model.context_length,
    }
    if header is not None:
        facts |= {
            "general.name": header.name,
            "general.file_type": header.file_type,
            f"{family}.block_count": header.block_count,
            f"{family}.embedding_length": header.embedding_length,
            f"{family}.attention.head_count": header.head_count,
            f"{family}.vocab_size": header.vocab_size,
        }
        if isinstance(header.head_count_kv, int):
            facts[f"{family}.attention.head_count_kv"] = header.head_count_kv
    return {name: value for name, value in facts.items() if value is not None}
