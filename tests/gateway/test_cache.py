"""The response cache: what is kept, for whom, and how identical requests share one generation."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.test_chat import text_of
from tests.models.gguf_files import write_gguf
from tests.service import Service
from tests.waiting import eventually

PATH = "/v1/chat/completions"


def ask(text: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "temperature": 0, "max_tokens": 6, **more}


def unique() -> str:
    return f"Say {time.monotonic_ns()}."


def cache_status(service: Service, body: Any, **headers: str) -> str | None:
    status, got, answer = service.request(
        PATH, body, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    assert status == 200, answer
    return got.get("x-cache")


@pytest.mark.parametrize("more", [{"temperature": 0}, {"temperature": 1, "seed": 3}])
def test_deterministic_requests_are_kept(more: dict[str, Any], service: Service) -> None:
    text = unique()
    assert cache_status(service, ask(text, **more)) == "miss"
    assert cache_status(service, ask(text, **more)) == "hit"
    assert cache_status(service, ask(text, **more, user="somebody", stream=True)) == "hit"
    assert cache_status(service, ask(text, **more, max_completion_tokens=5)) == "miss"


def test_what_is_drawn_is_not_kept(service: Service) -> None:
    text = unique()
    assert cache_status(service, ask(text, temperature=0.7)) is None
    assert cache_status(service, ask(text, temperature=0.7)) is None


def test_no_store_passes_the_cache_by(service: Service) -> None:
    text = unique()
    assert cache_status(service, ask(text), Cache_Control="no-store") is None
    assert cache_status(service, ask(text)) == "miss"
    assert cache_status(service, ask(text), Cache_Control="no-store") is None


def test_one_keys_answers_are_not_anothers(service: Service) -> None:
    text = unique()
    assert cache_status(service, ask(text), Authorization="Bearer a") == "miss"
    assert cache_status(service, ask(text), Authorization="Bearer b") == "miss"
    assert cache_status(service, ask(text), Authorization="Bearer a") == "hit"


def test_a_kept_answer_is_replayed_as_a_stream_and_whole(service: Service) -> None:
    text = unique()
    plain = service.json(PATH, ask(text))
    _, headers, stream = service.request(
        PATH, ask(text, stream=True, stream_options={"include_usage": True})
    )
    assert headers["x-cache"] == "hit"
    assert text_of(stream) == plain["choices"][0]["message"]["content"]
    last = json.loads(stream.split(b"\n\n")[-3][6:])
    assert last["usage"] == plain["usage"]
    assert json.loads(stream.split(b"\n\n")[0][6:])["id"] != plain["id"]


@pytest.fixture
def slow_service(tmp_path: Path) -> Iterator[Service]:
    """A fake engine that holds back its first byte until the file `go` is there."""
    models = tmp_path / "models"
    models.mkdir()
    write_gguf(models / "slow.gguf")
    switches = {
        "hang_before_first_byte": str(tmp_path / "go"),
        "cancel_log": str(tmp_path / "cancelled"),
    }
    (models / "slow.gguf.json").write_text(json.dumps(switches))
    env = {
        "MODELS_DIR": str(models),
        "INFERENCE_ENGINE": "fake",
        "EXTRA_ENGINES": "fake=tests.fake_engine:FakeAdapter",
        "WORKERS": "2",
        "REQUEST_TIMEOUT": "30",
    }
    with Service(["run.py", "--no-fetch"], tmp_path, env) as service:
        yield service


def test_identical_requests_share_one_generation_over_all_workers(slow_service: Service) -> None:
    answers: list[tuple[str | None, str]] = []

    def one(stream: bool) -> None:
        _, headers, body = slow_service.request(PATH, ask("the same", stream=stream))
        text = text_of(body) if stream else json.loads(body)["choices"][0]["message"]["content"]
        answers.append((headers.get("x-cache"), text))

    threads = [threading.Thread(target=one, args=(number % 2 == 0,)) for number in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: slow_service.engine()["in_flight"] == 1)
    (slow_service.folder / "go").touch()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 8
    assert len({text for _, text in answers}) == 1
    assert [state for state, _ in answers].count("miss") == 1
    metrics = slow_service.request("/metrics")[2].decode()
    assert (
        'vllm_obtain_inference_requests_total{engine="fake",model="slow",outcome="stop"} 1.0'
        in (metrics.replace('outcome="length"', 'outcome="stop"'))
    )


def test_the_shared_generation_outlives_its_first_asker_but_not_its_last(
    slow_service: Service,
) -> None:
    from tests.gateway.test_chat import _send

    first = _send(slow_service, PATH, ask("again"))
    eventually(lambda: slow_service.engine()["in_flight"] == 1)
    second = _send(slow_service, PATH, ask("again"))
    first.close()
    (slow_service.folder / "go").touch()
    assert second.recv(65536).startswith(b"HTTP/1.1 200")
    second.close()
    assert cache_status(slow_service, ask("again")) == "hit"

    (slow_service.folder / "go").unlink()
    lonely = _send(slow_service, PATH, ask("nobody waits for this"))
    eventually(lambda: slow_service.engine()["in_flight"] == 1)
    lonely.close()
    eventually(lambda: slow_service.engine()["in_flight"] == 0, timeout=5)
