"""Ollama's view of the models: which there are, what is known of one, which are loaded."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Response
from msgspec import UNSET

from vllm_obtain.api.ollama.answers import (
    Details,
    ListedModel,
    ModelAnswer,
    RunningAnswer,
    RunningModel,
    TagsAnswer,
    VersionAnswer,
    moment,
)
from vllm_obtain.api.ollama.requests import ShowBody
from vllm_obtain.api.ollama.translate import LATEST
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import Services, services
from vllm_obtain.catalogue import Model
from vllm_obtain.engines import sight
from vllm_obtain.engines.choice import why_not
from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.hardware import describe
from vllm_obtain.messages import EngineStatus, Status, StatusReply
from vllm_obtain.protocol.parse import decode

# The version of Ollama whose API this is; clients ask for it before they use what is new.
VERSION = "0.32.15"
# Models stay until their room is needed. Clients expect a time all the same.
NEVER = "9999-12-31T23:59:59Z"

_show = msgspec.json.Decoder(ShowBody)


def tags() -> Response:
    """GET /api/tags: the models that can be used here."""
    made = services()
    usable = [model for model in made.catalogue.models() if why_not(model, made.settings) is None]
    return reply(TagsAnswer([_listed(model) for model in usable]))


def show() -> Response:
    """POST /api/show: what is known of a model."""
    body = decode(read_body(), _show)
    if body.verbose:
        raise UnsupportedParameter(
            "verbose", "Tensors and vocabularies are not told; leave it out."
        )
    name = body.model or body.name
    if not name:
        raise InvalidRequest(
            "Missing required parameter: 'model'.",
            param="model",
            code="missing_required_parameter",
        )
    model = find(services(), name)
    return reply(
        ModelAnswer(
            details=_details(model),
            model_info=_info(model),
            capabilities=_capabilities(services(), model),
            modified_at=moment(model.modified),
        )
    )


def _capabilities(made: Services, model: Model) -> list[str]:
    """What a model can do, in Ollama's words; any that talks can call tools here."""
    if model.kind == "embedding":
        return ["embedding"]
    thinks = made.speaker(model).marks is not None
    sees = sight.why_not(model, made.settings) is None
    return ["completion", "tools", *["thinking"] * thinks, *["vision"] * sees]


def ps() -> Response:
    """GET /api/ps: the models that are loaded."""
    made = services()
    status = made.supervisor.ask(Status(), StatusReply)
    known = {model.name: model for model in made.catalogue.models()}
    ready = [one for one in status.engines if one.state == "ready" and one.model in known]
    on_gpu = _on_gpu(made)
    return reply(RunningAnswer([_running(one, known[one.model], on_gpu) for one in ready]))


def version() -> Response:
    """GET /api/version."""
    return reply(VersionAnswer(VERSION))


def find(made: Services, name: str) -> Model:
    """Look a model up by what Ollama's clients call it: with a tag, `latest` if nothing else.

    Raises:
        ModelNotFound: there is no such model.
    """
    if name.endswith(LATEST) and all(model.name != name for model in made.catalogue.known()):
        name = name.removesuffix(LATEST)
    return made.catalogue.find(name)


def context_of(made: Services, model: Model) -> int | None:
    """Tokens that a model is served with; those it was trained for while it is not loaded."""
    for engine in made.supervisor.ask(Status(), StatusReply).engines:
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


def _on_gpu(made: Services) -> bool:
    wanted = made.settings.device_type
    return (describe().device if wanted == "auto" else wanted) != "cpu"


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
    """The facts of a model under the names that GGUF files have for them."""
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
