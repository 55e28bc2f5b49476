"""POST /tokenize and /detokenize, and the functions behind all routes that need tokens."""

from __future__ import annotations

from flask import Response, g, request

from vllm_obtain.chat.prepare import prepare_chat
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.engines.one_shot import Tokens, vocabulary
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.gateway.core.cancellation import CancelToken
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import Services, current_services
from vllm_obtain.gateway.inference import model_lookup, prompt_limits
from vllm_obtain.gateway.inference.context import parameter_policy, prepared_within
from vllm_obtain.gateway.inference.one_shot import EngineCall
from vllm_obtain.gateway.middleware import auth
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.models import Model
from vllm_obtain.protocol.messages import images_in
from vllm_obtain.protocol.requests import ChatRequest
from vllm_obtain.protocol.sampling_params import SamplingParams
from vllm_obtain.protocol.tokenize import TextBody, TokensBody, parse_detokenize, parse_tokenize


def tokenize() -> Response:
    """POST /tokenize."""
    services = current_services()
    body = parse_tokenize(read_body(), parameter_policy().unknown)
    chat = body.chat
    # A chat template writes the special tokens itself.
    special = chat is None if body.add_special_tokens is None else body.add_special_tokens
    if chat is None:
        model, text = model_lookup.any_model(services, body.model), body.prompt or ""
    else:
        model = model_lookup.chat_model(services, body.model)
        text = prompt_of(services, model, chat)
    tokens, context = _tokenize(services, model, text, special, body.return_token_strs)
    return reply(TokensBody(len(tokens.ids), context, tokens.ids, tokens.texts))


def detokenize() -> Response:
    """POST /detokenize."""
    services = current_services()
    body = parse_detokenize(read_body(), parameter_policy().unknown)
    model = model_lookup.any_model(services, body.model)
    return reply(TextBody(text_of(services, model, body.tokens)))


def tokens_of(services: Services, model: Model, text: str, special: bool) -> list[int]:
    """Tokenize a text with the model's engine; loads the model if necessary.

    Args:
        services: the services of the worker.
        model: the model whose tokenizer is used.
        text: the text; special tokens in it are parsed as such.
        special: whether to add the special tokens that the model puts around a prompt.

    Raises:
        ServiceError: the engine failed, or the request was rejected.
        ClientDisconnected: the client of the current request disconnected.
    """
    return _tokenize(services, model, text, special, texts=False)[0].ids


def count(services: Services, model: Model, request: ChatRequest) -> int:
    """Count the tokens of a chat request's prompt. Raises the errors of `tokens_of`."""
    return len(tokens_of(services, model, prompt_of(services, model, request), special=False))


def text_of(services: Services, model: Model, tokens: list[int]) -> str:
    """Convert tokens to text, special tokens included. Raises the errors of `tokens_of`.

    Raises:
        InvalidRequest: a token id is not in the model's vocabulary.
    """
    size = vocabulary(model)
    if size is not None and any(token >= size for token in tokens):
        raise InvalidRequest(
            f"Invalid 'tokens': token ids of this model are below {size}.", param="tokens"
        )
    if not tokens:
        return ""

    def request_for(adapter: Adapter) -> tuple[str, object]:
        return adapter.detokenize_path, adapter.detokenize_body(tokens)

    def read(adapter: Adapter, response: bytes) -> tuple[str, int]:
        return adapter.read_text(response), 0

    g.model, cancel = model.name, CancelToken()
    with services.in_flight.track(request.environ, cancel):
        return EngineCall(services, model, cancel, read, auth.quota(services.settings))(
            0, request_for, tokens
        )


def prompt_of(services: Services, model: Model, chat: ChatRequest) -> str:
    """Render the prompt of a chat request.

    Raises:
        InvalidRequest: it has images, whose tokens only the engine can count.
    """
    if images := images_in(chat.messages):
        raise InvalidRequest(
            "Tokens of images can only be counted by a completion; see its 'usage'. "
            "Remove the images.",
            param=images[0][1],
            code="unsupported_content",
        )
    params = SamplingParams.resolve({})
    with prepared_within(services, services.settings.request_timeout):
        known_format, ignored = services.chat_format(model), parameter_policy().unknown
        return str(prepare_chat(chat, params, known_format, (), ignored).request.prompt)


def _tokenize(
    services: Services, model: Model, text: str, special: bool, texts: bool
) -> tuple[Tokens, int]:
    prompt_limits.check_text(services, model, text)

    def request_for(adapter: Adapter) -> tuple[str, object]:
        return adapter.tokenize_path, adapter.tokenize_body(text, special, texts)

    def read(adapter: Adapter, response: bytes) -> tuple[Tokens, int]:
        return adapter.read_tokens(response), 0

    g.model, cancel = model.name, CancelToken()
    with services.in_flight.track(request.environ, cancel):
        call = EngineCall(services, model, cancel, read, auth.quota(services.settings))
        tokens = call(0, request_for, (text, special))
    if texts and tokens.texts is None:
        tokens = Tokens(tokens.ids, [])
    return tokens, call.context
