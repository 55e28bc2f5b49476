"""Tokens and texts from the MLX server of a chat model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.engines.mlx.client import Server, run_server
from tests.engines.mlx.model import MARKS, VOCABULARY, write_model

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write_model(tmp_path_factory.mktemp("tiny"), context=512)
    with run_server(folder, tmp_path_factory.mktemp("run"), context=512) as made:
        yield made


def test_tokens_and_their_texts(server: Server) -> None:
    body = {"prompt": "né<|end|>", "return_token_strs": True}
    status, found = server.ask("/tokenize", body)
    assert (status, found["count"], found["max_model_len"]) == (200, len(found["tokens"]), 512)
    assert found["token_strs"][0] == "n" and found["token_strs"][-1] == MARKS[1]
    assert server.ask("/detokenize", {"tokens": found["tokens"]}) == (200, {"prompt": "né<|end|>"})


def test_an_empty_text_has_no_tokens(server: Server) -> None:
    status, found = server.ask("/tokenize", {"prompt": "", "add_special_tokens": False})
    assert (status, found["tokens"], found["token_strs"]) == (200, [], None)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {"prompt": 1}, "prompt"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [VOCABULARY]}, "tokens"),
    ],
)
def test_an_invalid_field_is_named(
    path: str, body: dict[str, Any], param: str, server: Server
) -> None:
    status, answer = server.ask(path, body)
    assert (status, answer["error"]["param"]) == (400, param)


def test_a_chat_model_serves_no_embeddings(server: Server) -> None:
    assert server.ask("/v1/embeddings", {"input": ["a"]})[0] == 404
