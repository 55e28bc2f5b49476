"""Vectors, ranks and tokens through the whole service, on each engine, with a real model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest

from tests import minilm
from tests.fleet import SETTINGS, engine
from tests.minilm import CLS, CONTEXT, NAME, SENTENCES, SEP, WIDTH, distance
from tests.service import Service
from vllm_obtain.engines.registry import BUILT_IN
from vllm_obtain.protocol.embeddings import MAX_INPUTS

pytestmark = pytest.mark.slow

# vLLM takes 3.5 GB to install, so a machine may be without it.
OPTIONAL = {"vllm"}
# Cosine distance from what sentence-transformers computes; the engines were seen within 1e-5.
NEAR = 1e-2


@pytest.fixture(scope="module", params=sorted(BUILT_IN))
def vectors(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service with the embedding model and nothing else, on one of the engines."""
    missing = engine(request.param).why_unavailable()
    if missing and request.param in OPTIONAL:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp(f"vectors-{request.param}")
    minilm.place(folder / "models")
    env = {
        "MODELS_DIR": str(folder / "models"),
        "INFERENCE_ENGINE": request.param,
        "VLLM_PYTHON": SETTINGS.vllm_python,
    }
    service = Service(["run.py", "--no-fetch"], folder, env)
    service.start(timeout=170)
    yield service
    service.kill_everything()


@pytest.fixture
def client(vectors: Service) -> Iterator[openai.OpenAI]:
    """The official SDK, which asks for base64 unless told otherwise."""
    with openai.OpenAI(base_url=f"{vectors.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def rejection(service: Service, path: str, body: Any) -> dict[str, Any]:
    status, _, answer = service.request(path, body)
    assert status == 400, answer[:300]
    return dict(json.loads(answer)["error"])


def test_vectors_are_those_of_sentence_transformers(client: openai.OpenAI) -> None:
    texts = [each.text for each in SENTENCES]
    answer = client.embeddings.create(model=NAME, input=texts)
    assert (answer.model, answer.object) == (NAME, "list")
    assert [each.index for each in answer.data] == [0, 1, 2]
    for given, known in zip(answer.data, SENTENCES, strict=True):
        assert len(given.embedding) == WIDTH
        assert distance(given.embedding, known.vector) < NEAR
    tokens = sum(len(each.tokens) for each in SENTENCES)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)


def test_numbers_and_base64_say_the_same(client: openai.OpenAI) -> None:
    text = SENTENCES[0].text
    plain = client.embeddings.create(model=NAME, input=text, encoding_format="float")
    coded = client.embeddings.create(model=NAME, input=text)
    assert plain.data[0].embedding == pytest.approx(coded.data[0].embedding, abs=1e-6)


def test_fewer_dimensions_are_the_first_ones_at_length_one(client: openai.OpenAI) -> None:
    text = SENTENCES[0].text
    (few,) = client.embeddings.create(model=NAME, input=text, dimensions=16).data
    assert len(few.embedding) == 16
    assert math.hypot(*few.embedding) == pytest.approx(1, abs=1e-4)
    assert distance(few.embedding, SENTENCES[0].vector[:16]) < NEAR
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=NAME, input=text, dimensions=WIDTH + 1)
    assert caught.value.param == "dimensions" and str(WIDTH) in caught.value.message


def test_tokens_are_taken_as_they_are(client: openai.OpenAI) -> None:
    one = client.embeddings.create(model=NAME, input=SENTENCES[0].tokens)
    assert distance(one.data[0].embedding, SENTENCES[0].vector) < NEAR
    two = client.embeddings.create(model=NAME, input=[each.tokens for each in SENTENCES[:2]])
    for given, known in zip(two.data, SENTENCES[:2], strict=True):
        assert distance(given.embedding, known.vector) < NEAR
    assert two.usage.prompt_tokens == sum(len(each.tokens) for each in SENTENCES[:2])
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=NAME, input=[CLS, 99_999, SEP])
    assert caught.value.param == "input"


def test_many_texts_come_back_in_their_order(client: openai.OpenAI) -> None:
    words = [f"{word} {number}" for number in range(9) for word in ("cat", "tax", "sun", "bit")]
    some = client.embeddings.create(model=NAME, input=words).data
    assert [each.index for each in some] == list(range(36))
    for index in (0, 31, 32, 35):
        (alone,) = client.embeddings.create(model=NAME, input=words[index]).data
        assert distance(some[index].embedding, alone.embedding) < 1e-4
    assert distance(some[0].embedding, some[1].embedding) > 0.1


def test_a_text_may_fill_the_context_and_no_more(vectors: Service) -> None:
    full = [CLS, *[2773] * (CONTEXT - 2), SEP]
    answer = vectors.json("/v1/embeddings", {"model": NAME, "input": full})
    assert answer["usage"]["prompt_tokens"] == CONTEXT
    for too_long in ("word " * (CONTEXT - 1), ["short", "word " * 400], [[*full, SEP]]):
        error = rejection(vectors, "/v1/embeddings", {"model": NAME, "input": too_long})
        assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
        assert str(CONTEXT) in error["message"]


def test_at_most_so_many_texts(vectors: Service) -> None:
    error = rejection(vectors, "/v1/embeddings", {"input": ["a"] * (MAX_INPUTS + 1)})
    assert error["param"] == "input" and str(MAX_INPUTS) in error["message"]
    error = rejection(vectors, "/v1/rerank", {"query": "a", "documents": ["b"] * MAX_INPUTS})
    assert error["param"] == "documents"


def test_documents_are_ranked_by_how_near_they_are(vectors: Service) -> None:
    documents = ["Bread is tasty.", {"text": "Paris is the capital of France."}, "A city."]
    body = {"model": NAME, "query": "What is the capital of France?", "documents": documents}
    answer = vectors.json("/v1/rerank", body)
    results = answer["results"]
    assert answer["model"] == NAME and answer["usage"]["prompt_tokens"] > 15
    assert [each["index"] for each in results] == [1, 2, 0]
    scores = [each["relevance_score"] for each in results]
    assert scores[0] > 0.7 > scores[1] > scores[2]
    assert results[0]["document"] == {"text": "Paris is the capital of France."}
    (best,) = vectors.json("/rerank", {**body, "top_n": 1, "return_documents": False})["results"]
    assert best["index"] == 1 and set(best) == {"index", "relevance_score"}


def test_texts_and_tokens(vectors: Service) -> None:
    for known in SENTENCES:
        response = vectors.json("/tokenize", {"model": NAME, "prompt": known.text})
        assert response["tokens"] == known.tokens and response["count"] == len(known.tokens)
        assert (response["max_model_len"], response["token_strs"]) == (CONTEXT, None)
    bare = {"prompt": "Hello world", "add_special_tokens": False, "return_token_strs": True}
    response = vectors.json("/tokenize", bare)
    assert [text.strip() for text in response["token_strs"]] == ["hello", "world"]
    text = vectors.json("/detokenize", {"model": NAME, "tokens": response["tokens"]})["prompt"]
    assert text.strip() == "hello world"


def test_it_generates_no_text(vectors: Service) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    for path, body in [
        ("/v1/chat/completions", {"messages": messages}),
        ("/v1/completions", {"prompt": "Hi", "model": NAME}),
        ("/tokenize", {"messages": messages}),
    ]:
        error = rejection(vectors, path, body)
        assert (error["code"], error["param"]) == ("unsupported_model", "model")
        assert "/v1/embeddings" in error["message"]


def test_the_list_of_models_says_what_each_is_for(vectors: Service, service: Service) -> None:
    (model,) = vectors.json("/v1/models")["data"]
    assert (model["kind"], model["context_length"], model["loadable"]) == (
        "embedding",
        CONTEXT,
        True,
    )
    assert {each["kind"] for each in service.json("/v1/models")["data"]} == {"chat"}


def test_a_chat_model_serves_no_embeddings(service: Service) -> None:
    for path, body in [
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ]:
        error = rejection(service, path, {"model": "smollm2-135m", **body})
        assert (error["code"], error["param"]) == ("unsupported_model", "model")
        assert "has no embedding model" in error["message"]
        error = rejection(service, path, body)
        assert (error["code"], error["param"]) == ("missing_required_parameter", "model")


def test_ollamas_client_gets_the_same_vectors(vectors: Service, client: openai.OpenAI) -> None:
    (mine,) = client.embeddings.create(model=minilm.NAME, input="A cat sleeps.").data
    with ollama.Client(host=vectors.url) as other:
        (theirs,) = other.embed(minilm.NAME, "A cat sleeps.").embeddings
    assert max(abs(a - b) for a, b in zip(mine.embedding, theirs, strict=True)) < 1e-5
