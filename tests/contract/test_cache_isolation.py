"""SHARED_PREFIX_CACHE=false: what one key asked is read again for another one, not for itself.

And with the same services: nobody else is told anything.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

import psutil
import pytest

from tests.access.helpers import bearer
from tests.contract.conftest import OPTIONAL
from tests.contract.disconnects import ObservedConnections, watch_connections
from tests.fleet import MODEL, Fleet, engine
from tests.service import Service
from vllm_obtain.engines.registry import BUILT_IN

KEYS = tuple(f"key-of-the-{name}-that-is-long-enough" for name in "abcde")
# Long enough for vLLM's smallest blocks, of 128 tokens on a CPU.
PROMPT = " ".join(f"The number {number} comes before {number + 1}." for number in range(24))


@pytest.fixture(scope="module", params=sorted(BUILT_IN))
def service(
    request: pytest.FixtureRequest, fleet: Fleet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    adapter = engine(request.param)
    missing = adapter.why_unavailable()
    if missing and adapter.name in OPTIONAL:
        pytest.skip(missing)
    env = {
        "SHARED_PREFIX_CACHE": "false",
        "API_KEYS": ",".join(KEYS),
        "MODELS_DIR": str(fleet.models(adapter.conversion, real=False)),
        "INFERENCE_ENGINE": adapter.name,
        "DEFAULT_MODEL": MODEL,
        "MAX_CONCURRENT_REQUESTS": "4",
        "VLLM_MAX_MODEL_LEN": "1024",
    }
    server = Service(["run.py", "--no-fetch"], tmp_path_factory.mktemp("apart"), env)
    with watch_connections(server) as talk:
        server.start(timeout=300)
        assert cached_tokens(server, KEYS[4]) == 0
    assert talk.looks > 3 and not talk.abroad
    yield server
    server.kill_everything()


def cached_tokens(service: Service, key: str, **more: object) -> int:
    """Ask the prompt with a key; how many of its tokens needed no work."""
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 2, "temperature": 1, **more}
    status, _, answer = service.request("/v1/completions", body, bearer(key), timeout=120)
    assert status == 200, answer
    return int(json.loads(answer)["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_a_prompt_warms_its_own_keys_cache_only(service: Service) -> None:
    one, other, third, fourth, _ = KEYS
    assert cached_tokens(service, one) == 0
    assert cached_tokens(service, one) > 0
    assert cached_tokens(service, other) == 0
    assert cached_tokens(service, other) > 0
    assert cached_tokens(service, one) > 0, "and it has kept its own"
    cached_tokens(service, one, n=3)
    assert [cached_tokens(service, key) for key in (third, fourth)] == [0, 0]


def test_an_answer_is_kept_for_the_key_that_asked(service: Service) -> None:
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 2, "temperature": 0}
    events = [
        service.request("/v1/completions", body, bearer(key), timeout=120)[1]["x-cache"]
        for key in (KEYS[0], KEYS[0], KEYS[1])
    ]
    assert events == ["miss", "hit", "miss"]


# What libraries look at before they tell their makers who uses them.
QUIET = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OTEL_SDK_DISABLED": "true",
}


def test_every_process_of_an_engine_is_told_to_report_nothing(service: Service) -> None:
    answer = service.request("/v1/system/status", None, bearer(KEYS[0]))[2]
    (engine,) = [each for each in json.loads(answer)["engines"] if each["pid"]]
    process = psutil.Process(engine["pid"])
    for each in [process, *process.children(recursive=True)]:
        told = each.environ()
        if each != process and "PATH" not in told:
            continue  # vLLM's have written their names over it; they inherit it all the same
        assert {name: told.get(name) for name in QUIET} == QUIET, each.cmdline()


def test_who_talks_to_others_would_be_seen() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as line:
        try:
            line.connect(("192.0.2.1", 9))  # says nothing yet
        except OSError:
            line.bind(("", 0))
        talk = ObservedConnections()
        talk.look([psutil.Process(os.getpid())])
        assert len(talk.abroad) == 1
