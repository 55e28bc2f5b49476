"""Unsupported routes return a 404 that names an alternative, in the format of their API."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest

from tests.service import Service
from vllm_obtain.gateway.middleware.unsupported_routes import no_route


@pytest.mark.parametrize(
    ("path", "feature"),
    [
        ("/v1/audio/speech", "Audio"),
        ("/v1/images/generations", "Image generation"),
        ("/v1/files", "File storage"),
        ("/v1/uploads/u_1/parts", "File storage"),
        ("/v1/batches", "Batch processing"),
        ("/v1/assistants", "Assistants"),
        ("/v1/threads/t_1/runs", "Threads"),
        ("/v1/responses/compact", "Compaction"),
        ("/v1/fine_tuning/jobs", "Fine-tuning"),
        ("/v1/vector_stores", "Vector storage"),
        ("/v1/moderations", "Moderation"),
        ("/v1/realtime/sessions", "Realtime"),
        ("/v1/videos", "Video generation"),
        ("/v1/evals", "Evals"),
        ("/v1/containers", "Code execution"),
    ],
)
def test_error_names_the_unsupported_feature_and_an_alternative(path: str, feature: str) -> None:
    error = no_route(path)
    assert (error.status, error.code) == (404, "not_supported")
    subject, alternative = error.message.split(" is not supported. ")
    assert feature in subject and alternative.endswith(".")


@pytest.mark.parametrize("path", ["/v1/audiobooks", "/v1", "/v1/nothing", "/api", "/apis/pull"])
def test_other_paths_are_not_found(path: str) -> None:
    assert no_route(path).code == "not_found"


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_sdk_raises_not_found_with_the_message(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.files.create(file=b"{}", purpose="batch")
    assert raised.value.code == "not_supported"
    assert raised.value.type == "invalid_request_error" and raised.value.param is None
    assert "in the request that needs it" in raised.value.message
    with pytest.raises(openai.NotFoundError, match="Batch processing"):
        client.batches.list()


def test_every_method_returns_not_supported(service: Service) -> None:
    for body in (None, {}):
        status, headers, response = service.request("/v1/images/generations", body)
        assert (status, headers["content-type"]) == (404, "application/json")
        assert json.loads(response)["error"]["code"] == "not_supported"
