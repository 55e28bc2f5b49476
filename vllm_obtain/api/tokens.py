"""POST /tokenize and /detokenize, and tokens for whoever else needs them."""

from __future__ import annotations

from flask import Response, g, request

from vllm_obtain.api import entry, lengths, pick
from vllm_obtain.api.ask import Ask
from vllm_obtain.api.cancel import Cancel
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import Services, services
from vllm_obtain.catalogue import Model
from vllm_obtain.chat.prepare import prepare_chat
from vllm_obtain.engines.base import Adapter
from vllm_obtain.engines.plain import Tokens, vocabulary
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.protocol.conversation import images_in
from vllm_obtain.protocol.requests import ChatRequest
from vllm_obtain.protocol.tokens import TextBody, TokensBody, parse_detokenize, parse_tokenize


def tokenize() -> Response:
    """POST /tokenize."""
    made, asked = services(), parse_tokenize(read_body())
    chat = asked.chat
    # What a template writes has the model's marks in it already.
    special = chat is None if asked.add_special_tokens is None else asked.add_special_tokens
    if chat is None:
        model, text = pick.any_model(made, asked.model), asked.prompt or ""
    else:
        model = pick.talker(made, asked.model)
        text = prompt_of(made, model, chat)
    found, context = _tokenize(made, model, text, special, asked.return_token_strs)
    body = TokensBody(len(found.ids), context, found.ids, found.texts)
    return reply(body)


def detokenize() -> Response:
    """POST /detokenize."""
    made, asked = services(), parse_detokenize(read_body())
    model = pick.any_model(made, asked.model)
    body = TextBody(text_of(made, model, asked.tokens))
    return reply(body)


def tokens_of(made: Services, model: Model, text: str, special: bool) -> list[int]:
    """Tokenise a text as the model's engine does; loads the model if need be.

    Args:
        made: the services.
        model: whose tokens.
        text: what to tokenise; marks of the model's in it are taken as such.
        special: whether the marks are added that the model puts around a prompt.

    Raises:
        ServiceError: it cannot be done, or broke off.
        ClientGone: the client of the request that is being handled went away.
    """
    return _tokenize(made, model, text, special, texts=False)[0].ids


def count(made: Services, model: Model, asked: ChatRequest) -> int:
    """Count the tokens of a chat's prompt; raises as `tokens_of`."""
    return len(tokens_of(made, model, prompt_of(made, model, asked), special=False))


def text_of(made: Services, model: Model, tokens: list[int]) -> str:
    """Spell tokens out, marks of the model's by their names; raises as `tokens_of`.

    Raises:
        InvalidRequest: the model has no such token.
    """
    known = vocabulary(model)
    if known is not None and any(token >= known for token in tokens):
        raise InvalidRequest(f"Invalid 'tokens': this model's are below {known}.", param="tokens")
    if not tokens:
        return ""

    def question(adapter: Adapter) -> tuple[str, object]:
        return adapter.detokenize_path, adapter.detokenize_body(tokens)

    def read(adapter: Adapter, answer: bytes) -> tuple[str, int]:
        return adapter.read_text(answer), 0

    g.model, cancel = model.name, Cancel()
    with made.working.on(request.environ, cancel):
        return Ask(made, model, cancel, read, entry.account())(0, question)


def prompt_of(made: Services, model: Model, asked: ChatRequest) -> str:
    """Write a chat as the prompt that the model reads.

    Raises:
        InvalidRequest: it has images, whose tokens nobody knows before they are looked at.
    """
    if found := images_in(asked.messages):
        raise InvalidRequest(
            "The tokens of images are not counted without an answer; 'usage' of an answer has "
            "them. Leave the images out.",
            param=found[0][1],
            code="unsupported_content",
        )
    return str(prepare_chat(asked, made.speaker(model)).task.prompt)


def _tokenize(
    made: Services, model: Model, text: str, special: bool, texts: bool
) -> tuple[Tokens, int]:
    lengths.check_text(made, model, text)

    def question(adapter: Adapter) -> tuple[str, object]:
        return adapter.tokenize_path, adapter.tokenize_body(text, special, texts)

    def read(adapter: Adapter, answer: bytes) -> tuple[Tokens, int]:
        return adapter.read_tokens(answer), 0

    g.model, cancel = model.name, Cancel()
    with made.working.on(request.environ, cancel):
        ask = Ask(made, model, cancel, read, entry.account())
        found = ask(0, question)
    if texts and found.texts is None:
        found = Tokens(found.ids, [])
    return found, ask.context
