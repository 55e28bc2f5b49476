"""What this service does not do is a sentence, in the shape of the API that it belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest

from tests.service import Service
from vllm_obtain.api.absent import no_route


@pytest.mark.parametrize(
    ("path", "thing"),
    [
        ("/v1/audio/speech", "Audio"),
        ("/v1/images/generations", "images"),
        ("/v1/files", "files"),
        ("/v1/uploads/u_1/parts", "files"),
        ("/v1/batches", "Batches"),
        ("/v1/assistants", "Assistants"),
        ("/v1/threads/t_1/runs", "Threads"),
        ("/v1/fine_tuning/jobs", "Fine-tuning"),
        ("/v1/vector_stores", "Vector stores"),
        ("/v1/moderations", "Moderation"),
        ("/v1/realtime/sessions", "Realtime"),
        ("/v1/videos", "videos"),
        ("/v1/evals", "Evals"),
        ("/v1/containers", "Containers"),
    ],
)
def test_what_is_not_done_is_named(path: str, thing: str) -> None:
    error = no_route(path)
    assert (error.status, error.code) == (404, "not_supported")
    first, second = error.message.split(": not done by this service. ")
    assert thing in first and second.endswith(".")


@pytest.mark.parametrize("path", ["/v1/audiobooks", "/v1", "/v1/nothing", "/api", "/apis/pull"])
def test_other_paths_are_no_routes(path: str) -> None:
    assert no_route(path).code == "not_found"


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_openais_client_gets_the_sentence(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.files.create(file=b"{}", purpose="batch")
    assert raised.value.code == "not_supported"
    assert raised.value.type == "invalid_request_error" and raised.value.param is None
    assert "within the request" in raised.value.message
    with pytest.raises(openai.NotFoundError, match="Batches"):
        client.batches.list()


def test_any_method_gets_it(service: Service) -> None:
    for body in (None, {}):
        status, headers, answer = service.request("/v1/images/generations", body)
        assert (status, headers["content-type"]) == (404, "application/json")
        assert json.loads(answer)["error"]["code"] == "not_supported"
