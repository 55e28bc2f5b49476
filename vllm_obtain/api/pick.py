"""Which model a request means, and whether that is of the right kind."""

from __future__ import annotations

from vllm_obtain.api.services import Services
from vllm_obtain.catalogue import Model
from vllm_obtain.engines.choice import default_model, why_not
from vllm_obtain.errors import InvalidRequest

WRONG_KIND = "unsupported_model"


def any_model(made: Services, name: str | None) -> Model:
    """Find the model that a request names, or the default one.

    Raises:
        ModelNotFound: there is no such model.
        InvalidRequest: it names none, and there is none.
    """
    model = made.catalogue.find(name) if name else default_model(made.catalogue, made.settings)
    if model is None:
        raise _nameless("there is no default model")
    return model


def talker(made: Services, name: str | None) -> Model:
    """Find the model for a chat or a completion.

    Raises:
        ModelNotFound, InvalidRequest: as `any_model`; or it cannot talk.
    """
    model = any_model(made, name)
    if model.kind == "embedding":
        raise InvalidRequest(
            f"'{model.name}' is an embedding model and generates no text. Ask it at "
            "/v1/embeddings, or name another model.",
            param="model",
            code=WRONG_KIND,
        )
    return model


def embedder(made: Services, name: str | None) -> Model:
    """Find the model for vectors; the first one that can be served when none is named.

    Raises:
        ModelNotFound, InvalidRequest: as `any_model`; or it makes no vectors.
    """
    if not name:
        return _first_embedder(made)
    model = made.catalogue.find(name)
    if model.kind != "embedding":
        raise InvalidRequest(
            f"'{model.name}' generates text and is no embedding model. {_embedders(made)}",
            param="model",
            code=WRONG_KIND,
        )
    return model


def _first_embedder(made: Services) -> Model:
    found = [model for model in made.catalogue.models() if model.kind == "embedding"]
    usable = (model for model in found if why_not(model, made.settings) is None)
    model = next(usable, None) or next(iter(found), None)
    if model is None:
        raise _nameless(_embedders(made))
    return model


def _embedders(made: Services) -> str:
    names = [model.name for model in made.catalogue.known() if model.kind == "embedding"]
    if not names:
        return "MODELS_DIR holds no embedding model."
    return f"Embedding models here: {', '.join(names)}."


def _nameless(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: 'model', and {why.rstrip('.')}.",
        param="model",
        code="missing_required_parameter",
    )
