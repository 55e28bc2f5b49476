from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.service import Service


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="mine", max_retries=0) as sdk:
        yield sdk
