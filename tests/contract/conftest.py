"""One service per engine, started when the first test needs it and shared by all others."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from tokenizers import Tokenizer

from tests.contract.target import Target
from tests.fleet import MODEL, Fleet, engine
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.engines.registry import BUILT_IN

# vLLM takes 3.5 GB to install, so a machine may be without it (`make test ENGINES=all` is not);
# the other two are part of what `make test` installs.
OPTIONAL = {"vllm"}


@pytest.fixture(scope="session")
def tokenizer(fleet: Fleet) -> Tokenizer:
    """The embedded model's."""
    return Tokenizer.from_file(str(fleet.models("mlx") / MODEL / "tokenizer.json"))


# Of the session, so that pytest runs all tests of one engine before those of the next.
@pytest.fixture(scope="session", params=sorted(BUILT_IN))
def adapter(request: pytest.FixtureRequest) -> Adapter:
    """Each engine that is here."""
    found = engine(request.param)
    missing = found.why_unavailable()
    if missing and found.name in OPTIONAL:
        pytest.skip(missing)
    assert missing is None
    return found


@pytest.fixture(scope="session")
def target(adapter: Adapter, fleet: Fleet, tokenizer: Tokenizer) -> Target:
    """An engine with a service in front of it; what its model says may make no sense."""
    return Target(adapter, fleet.service(adapter.name, real=False), tokenizer)


@pytest.fixture(scope="session")
def embedded_target(adapter: Adapter, fleet: Fleet, tokenizer: Tokenizer) -> Target:
    """An engine with the embedded model, for tests of what it says."""
    return Target(adapter, fleet.service(adapter.name), tokenizer)


@pytest.fixture
def client(target: Target) -> Iterator[openai.OpenAI]:
    """The official SDK."""
    with _client(target) as sdk:
        yield sdk


@pytest.fixture
def real_client(embedded_target: Target) -> Iterator[openai.OpenAI]:
    """The official SDK, with the embedded model."""
    with _client(embedded_target) as client:
        yield client


def _client(target: Target) -> openai.OpenAI:
    url = f"{target.service.url}/v1"
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)
