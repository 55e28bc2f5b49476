"""Anthropic's routes."""

from __future__ import annotations

from functools import partial

from flask import Response, g

from vllm_obtain.api import pick, tokens
from vllm_obtain.api.anthropic.answers import TokensCount
from vllm_obtain.api.anthropic.render import MessageRenderer, Shown
from vllm_obtain.api.anthropic.requests import (
    Adapts,
    MessagesRequest,
    Thinks,
    ThinksNot,
    parse_count,
    parse_messages,
)
from vllm_obtain.api.anthropic.translate import translate
from vllm_obtain.api.inference import answer, leniency
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import services


def messages() -> Response:
    """POST /v1/messages."""
    asked = parse_messages(read_body())
    made = services()
    model = pick.talker(made, asked.model)
    chat, ignored = translate(asked, made.speaker(model).takes_effort)
    rendered = partial(MessageRenderer, request_id=g.request_id, thinking=_shown(asked))
    leniency().ignored += ignored
    return answer(chat, rendered)


def count_tokens() -> Response:
    """POST /v1/messages/count_tokens."""
    asked, made = parse_count(read_body()), services()
    model = pick.talker(made, asked.model)
    chat, _ = translate(asked, made.speaker(model).takes_effort)
    found = tokens.count(made, model, chat)
    return reply(TokensCount(found))


def _shown(asked: MessagesRequest) -> Shown:
    """Say what the client wants to see of the model's reasoning."""
    if isinstance(asked.thinking, ThinksNot):
        return "hidden"
    if isinstance(asked.thinking, Thinks | Adapts) and asked.thinking.display == "omitted":
        return "omitted"
    return "shown"
