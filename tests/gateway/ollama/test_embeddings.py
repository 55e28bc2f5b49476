"""Ollama's routes for vectors, over a stand-in for what makes them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from vllm_obtain.config.settings import Settings
from vllm_obtain.gateway.core.services import EXTENSION
from vllm_obtain.gateway.middleware import error_handler
from vllm_obtain.gateway.ollama import embeddings


class Maker:
    """Gives each text the vector (3, 4), and counts a token for each."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def embed(self, _: Any, model: Any, inputs: list[str], dimensions: int | None) -> Any:
        self.calls.append((model.name, inputs, dimensions))
        return [[3.0, 4.0] for _ in inputs], len(inputs)


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    made = Maker()
    monkeypatch.setattr(embeddings.openai_embeddings, "embed", made.embed)
    return made


@pytest.fixture
def client() -> Iterator[FlaskClient]:
    app = Flask("bare")
    model = SimpleNamespace(name="mini", kind="embedding")
    catalogue = SimpleNamespace(known=lambda: (model,), find=lambda _: model)
    app.extensions[EXTENSION] = SimpleNamespace(catalogue=catalogue, settings=Settings())
    app.config |= {"BODY_TIMEOUT": 5.0, "STRICT_PARAMETERS": "strict"}
    error_handler.register(app)
    app.post("/api/embed")(embeddings.embed)
    app.post("/api/embeddings")(embeddings.embeddings)
    with app.test_client() as made:
        yield made


def test_vectors_have_length_1(maker: Maker, client: FlaskClient) -> None:
    body = client.post("/api/embed", json={"model": "mini:latest", "input": ["a", "b"]}).json
    assert body is not None
    assert body["embeddings"] == [[0.6, 0.8], [0.6, 0.8]]
    assert (body["model"], body["prompt_eval_count"]) == ("mini:latest", 2)
    assert body["total_duration"] > 0
    assert maker.calls == [("mini", ["a", "b"], None)]


def test_one_text_and_dimensions(maker: Maker, client: FlaskClient) -> None:
    body = {"model": "mini", "input": "a", "dimensions": 2, "truncate": True, "keep_alive": "5m"}
    assert client.post("/api/embed", json=body).status_code == 200
    assert maker.calls == [("mini", ["a"], 2)]


def test_the_older_route_gives_the_vector_as_it_is(maker: Maker, client: FlaskClient) -> None:
    answer = client.post("/api/embeddings", json={"model": "mini", "prompt": "a"})
    assert answer.json == {"embedding": [3.0, 4.0]}


def test_nothing_to_embed_asks_nobody(maker: Maker, client: FlaskClient) -> None:
    answer = client.post("/api/embed", json={"model": "mini", "input": []}).json
    assert answer is not None and answer["embeddings"] == []
    assert client.post("/api/embeddings", json={"model": "mini"}).json == {"embedding": []}
    assert maker.calls == []


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"options": {"temperature": 0}}, "options.temperature"),
        ({"options": {"num_gpu": 1}}, "options.num_gpu"),
        ({"raw": True}, "raw"),
    ],
)
def test_what_a_vector_does_not_need_is_refused_by_name(
    maker: Maker, client: FlaskClient, more: dict[str, Any], named: str
) -> None:
    answer = client.post("/api/embed", json={"model": "mini", "input": "a", **more})
    assert answer.status_code == 400
    assert answer.json is not None and f"'{named}'" in answer.json["error"]
