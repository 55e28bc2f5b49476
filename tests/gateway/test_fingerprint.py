"""Requests that may give different completions have different fingerprints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_parameter_table import IN_CHAT, IN_TEXT
from tests.engine_requests import engine_request
from vllm_obtain.gateway.inference.context import fingerprint
from vllm_obtain.models import Model
from vllm_obtain.protocol.engine_request import EngineRequest, ImageInput
from vllm_obtain.protocol.parsing import parse_chat, parse_completion

MODEL = Model("m", Path("m.gguf"), "gguf", 1, "0", 0)
# Unsupported without "logprobs".
TOGETHER = {"top_logprobs": {"logprobs": True}}
IMAGE = ImageInput(b"a", "image/png", 1, 1, "messages[0]")


def chat(**fields: Any) -> EngineRequest:
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    return engine_request(parse_chat(json.dumps(body).encode()), "Hi")


def text(**fields: Any) -> EngineRequest:
    return engine_request(parse_completion(json.dumps({"prompt": "Hi", **fields}).encode()), "Hi")


def test_equal_requests_have_one_fingerprint() -> None:
    first = chat(seed=1, logit_bias={"5": 1, "6": 2})
    second = chat(logit_bias={"6": 2, "5": 1}, seed=1, user="somebody", stream=True)
    assert fingerprint(first, MODEL) == fingerprint(second, MODEL)


@pytest.mark.parametrize(("name", "value"), IN_CHAT.items())
def test_every_parameter_of_a_chat_counts(name: str, value: Any) -> None:
    more = TOGETHER.get(name, {})
    assert fingerprint(chat(**more, **{name: value}), MODEL) != fingerprint(chat(**more), MODEL)


@pytest.mark.parametrize(("name", "value"), IN_TEXT.items())
def test_every_parameter_of_a_completion_counts(name: str, value: Any) -> None:
    assert fingerprint(text(**{name: value}), MODEL) != fingerprint(text(), MODEL)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Ho"},
        {"prompt": [1, 2]},
        {"is_chat": False},
        {"grammar": "start: /a/"},
        {"images": (IMAGE,)},
        {"images": (IMAGE, IMAGE)},
        {"images": (replace(IMAGE, data=b"b"),)},
    ],
    ids=repr,
)
def test_the_prompt_the_grammar_and_the_images_count(fields: dict[str, Any]) -> None:
    assert fingerprint(replace(chat(), **fields), MODEL) != fingerprint(chat(), MODEL)


def test_the_name_and_the_revision_of_the_model_count() -> None:
    renamed, updated = replace(MODEL, name="n"), replace(MODEL, revision="1")
    assert len({fingerprint(chat(), model) for model in (MODEL, renamed, updated)}) == 3
