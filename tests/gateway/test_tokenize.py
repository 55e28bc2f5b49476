"""Tokens of a chat model, through the whole service."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.service import Service

MODEL = "smollm2-135m"


def test_tokens_spell_the_text_they_came_from(service: Service) -> None:
    text = "Ünïcode 漢字, 'quoted'\n\tand 12345 numbers."
    body = {"model": MODEL, "prompt": text, "return_token_strs": True}
    response = service.json("/tokenize", body)
    assert response["count"] == len(response["tokens"]) == len(response["token_strs"]) > 10
    assert response["max_model_len"] == 8192
    spelled = service.json("/detokenize", {"model": MODEL, "tokens": response["tokens"]})
    assert spelled == {"prompt": text}
    assert "quoted" in "".join(response["token_strs"])


def test_marks_in_a_prompt_are_marks(service: Service) -> None:
    response = service.json("/tokenize", {"prompt": "<|im_start|>user", "return_token_strs": True})
    assert response["token_strs"] == ["<|im_start|>", "user"]


def test_the_count_is_what_a_completion_reads(service: Service) -> None:
    prompt = "The quick brown fox jumps."
    counted = service.json("/tokenize", {"prompt": prompt})["count"]
    answer = service.json("/v1/completions", {"prompt": prompt, "max_tokens": 1})
    assert answer["usage"]["prompt_tokens"] == counted


def test_messages_have_tokens_too(service: Service) -> None:
    few = service.json("/tokenize", {"messages": [{"role": "user", "content": "One two."}]})
    more = {"role": "user", "content": "One two. " * 20}
    assert service.json("/tokenize", {"messages": [more]})["count"] > few["count"] > 2


def test_an_empty_text_has_no_tokens(service: Service) -> None:
    assert service.json("/tokenize", {"prompt": "", "add_special_tokens": False})["tokens"] == []
    assert service.json("/detokenize", {"tokens": []}) == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"prompt": 7}, "prompt"),
        ("/tokenize", {"prompt": "a", "temperature": 1}, "temperature"),
        ("/detokenize", {"tokens": [10_000_000]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_an_invalid_field_is_named(
    path: str, body: dict[str, Any], param: str, service: Service
) -> None:
    status, _, answer = service.request(path, {"model": MODEL, **body})
    assert (status, json.loads(answer)["error"]["param"]) == (400, param)


def test_a_model_that_is_not_there(service: Service) -> None:
    status, _, answer = service.request("/tokenize", {"model": "nobody", "prompt": "a"})
    assert (status, json.loads(answer)["error"]["code"]) == (404, "model_not_found")
