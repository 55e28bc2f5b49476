"""LangChain's client for OpenAI's API: the example, and what it makes of our answers."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.clients.blocks import block, run
from tests.service import Service
from tests.test_docs import holds_words


@pytest.fixture(scope="module")
def model(service: Service) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{service.url}/v1",
        api_key="none",  # type: ignore[arg-type]
        model="smollm2-135m",
        max_retries=0,
        stream_usage=True,
    )


def test_the_example(service: Service, tmp_path: Path) -> None:
    assert holds_words(run(block("LangChain", service), tmp_path))


def test_usage_and_the_reason_of_the_end_arrive(model: ChatOpenAI) -> None:
    plain = model.invoke("Say hi.", max_tokens=4)
    chunks = list(model.stream("Say hi.", max_tokens=4))
    streamed = sum(chunks[1:], chunks[0])
    for answer in (plain, streamed):
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_tokens"] == 4
        assert answer.response_metadata["finish_reason"] == "length"


def test_an_error_names_its_field(model: ChatOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        model.invoke("Say hi.", temperature=9)
