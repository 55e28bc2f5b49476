"""Several answers to one prompt (`n`) through the whole service, driven by the official SDK."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.gateway.test_chat import _busy_slots, _send
from tests.profiles import Fakes
from tests.service import Service
from tests.waiting import eventually

MODEL = "smollm2-135m"
ASK: Any = [{"role": "user", "content": "Name a colour and say why you like it."}]
DRAWN: dict[str, Any] = {"model": MODEL, "n": 3, "max_tokens": 10, "temperature": 1.3, "seed": 7}


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_choices_of_a_chat_plain_and_streamed(client: openai.OpenAI) -> None:
    body = {**DRAWN, "messages": ASK, "logprobs": True, "top_logprobs": 1}
    # Rounding, and so what is drawn, depends on how much of the prompt is in the engine's cache.
    client.chat.completions.create(**{**body, "n": 1, "max_tokens": 1})
    answer = client.chat.completions.create(**body)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3, "each is drawn by a seed of its own"
    entries = [choice.logprobs.content or [] for choice in answer.choices if choice.logprobs]
    spelled = ["".join(entry.token for entry in told) for told in entries]
    assert [text.startswith(word) for text, word in zip(spelled, texts, strict=True)] == [True] * 3
    # The token that ends an answer is counted and has no entry of its own in some engines.
    ends = sum(choice.finish_reason == "stop" for choice in answer.choices)
    counted = sum(map(len, entries))
    assert answer.usage is not None
    assert counted <= answer.usage.completion_tokens <= counted + ends
    # The same again is drawn anew past the cache, and told piece by piece.
    chunks = list(
        client.chat.completions.create(
            **body,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"Cache-Control": "no-store"},
        )
    )
    usages = [chunk.usage for chunk in chunks if not chunk.choices]
    assert len(usages) == 1 and usages[0] is not None and chunks[-1].usage == usages[0]
    assert usages[0].completion_tokens == answer.usage.completion_tokens
    assert usages[0].prompt_tokens == answer.usage.prompt_tokens
    told = [choice for chunk in chunks for choice in chunk.choices]
    assert [choice.index for choice in told if choice.delta.role] == [0, 1, 2]
    for index in range(3):
        own = [choice for choice in told if choice.index == index]
        assert own[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in own) == texts[index]
        ends_of = [choice.finish_reason for choice in own if choice.finish_reason]
        assert ends_of == [answer.choices[index].finish_reason] and own[-1].finish_reason


def test_choices_of_a_text_have_their_own_stops_and_offsets(client: openai.OpenAI) -> None:
    body = {**DRAWN, "prompt": "Once upon a time", "logprobs": 1, "stop": ["."], "max_tokens": 24}
    answer = client.completions.create(**body)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.text for choice in answer.choices}) == 3
    assert not any("." in choice.text for choice in answer.choices)
    for choice in answer.choices:
        assert choice.logprobs is not None and choice.logprobs.text_offset is not None
        offsets, tokens = choice.logprobs.text_offset, choice.logprobs.tokens or []
        assert offsets[0] == 0 and offsets[-1] == len("".join(tokens[:-1]))
    chunks = list(client.completions.create(**body, stream=True))
    texts = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in answer.choices]


@pytest.mark.parametrize("seed", [7, -1])
def test_the_choices_of_one_seed_differ(seed: int, client: openai.OpenAI) -> None:
    # Whether they are the same ones a second time is up to the engine's rounding, which depends on
    # what it computes together; the contract holds what can be held.
    body = {**DRAWN, "seed": seed, "n": 3, "prompt": "Once upon a time"}
    answer = client.completions.create(**body, extra_headers={"Cache-Control": "no-store"})
    assert len({choice.text for choice in answer.choices}) == 3


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_choices_without_chance_are_alike_and_all_counted(stream: bool, service: Service) -> None:
    greedy = {"messages": ASK, "temperature": 0, "max_tokens": 6, "stream": stream}
    greedy |= {"stream_options": {"include_usage": True}} if stream else {}
    bodies = []
    for n in (1, 100):
        status, _, answer = service.request("/v1/chat/completions", {**greedy, "n": n})
        assert status == 200
        bodies.append(_read_choices(answer))
    (single, one), (alike, all_of_them) = bodies
    assert alike == single * 100
    assert all_of_them["completion_tokens"] == one["completion_tokens"] * 100
    assert all_of_them["prompt_tokens"] == one["prompt_tokens"]


def test_choices_that_are_kept_come_again_as_they_were(service: Service) -> None:
    body = {**DRAWN, "messages": [{"role": "user", "content": f"{time.monotonic_ns()}"}]}
    first, second = (service.request("/v1/chat/completions", body) for _ in range(2))
    assert [answer[1]["x-cache"] for answer in (first, second)] == ["miss", "hit"]
    assert (
        _read_choices(first[2]) == _read_choices(second[2]) and len(_read_choices(first[2])[0]) == 3
    )


def test_more_choices_than_the_engine_has_slots_are_refused_with_the_limit(
    service: Service,
) -> None:
    slots = service.engine()["slots"]
    body = {"messages": ASK, "n": slots + 1, "max_tokens": 1, "temperature": 1}
    status, _, answer = service.request("/v1/chat/completions", body)
    error = json.loads(answer)["error"]
    assert (status, error["param"], error["code"]) == (400, "n", "invalid_value")
    assert (
        f"limit of {slots} parallel sequences" in error["message"]
        and str(slots + 1) in error["message"]
    )


@pytest.mark.parametrize("text", ["Tell a long story.", "the quick brown fox " * 600])
def test_a_client_that_goes_away_frees_the_slots_of_all_choices(
    text: str, service: Service
) -> None:
    text = f"{time.monotonic_ns()} {text}"
    body = {"messages": [{"role": "user", "content": text}], "n": 4, "max_tokens": 1500}
    client = _send(service, "/v1/chat/completions", body)
    eventually(lambda: _busy_slots(service) == 4, interval=0.01)
    client.close()
    eventually(lambda: _busy_slots(service) == 0 and service.engine()["in_flight"] == 0, timeout=5)


@pytest.fixture(scope="module")
def small_models(fakes: Fakes) -> Fakes:
    """A fake engine with little room, and two that do not say all."""
    limits = {"slots": 4, "pool_tokens": 2000, "context": 1500}
    fakes.add("small", {"llama.context_length": 1500}, **limits)
    fakes.add("endless", lacks="end")
    fakes.add("uncounted", lacks="usage")
    return fakes


def test_the_usage_of_an_engine_that_counts_each_choice_is_added_up(small_models: Fakes) -> None:
    body = {"model": "small", "prompt": "one two three", "n": 4, "max_tokens": 2}
    answer = small_models.json("/v1/completions", body)
    assert [choice["text"] for choice in answer["choices"]] == ["one two "] * 4
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 4
    assert answer["usage"]["prompt_tokens"] == 3 and answer["usage"]["completion_tokens"] == 8


def test_choices_that_can_never_fit_together_are_refused(small_models: Fakes) -> None:
    body = {"model": "small", "prompt": "one two three", "n": 4, "max_tokens": 600}
    status, _, answer = small_models.request("/v1/completions", body)
    error = json.loads(answer)["error"]
    assert (status, error["param"]) == (400, "n")
    assert "2000" in error["message"] and "max_tokens" in error["message"]


def test_a_full_cache_cuts_all_choices(small_models: Fakes) -> None:
    words = 1400
    text = " ".join(map(str, range(1, words)))
    body = {"model": "small", "messages": [{"role": "user", "content": text}], "n": 2}
    answer = small_models.json("/v1/chat/completions", body)
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 2
    counts = [len(choice["message"]["content"].split()) for choice in answer["choices"]]
    assert sum(counts) == answer["usage"]["completion_tokens"] < 2 * words
    eventually(lambda: small_models.engine("small")["in_flight"] == 0)
    assert small_models.engine("small")["tokens_reserved"] == 0


def test_an_answer_without_end_is_an_error_and_none_without_count_is(small_models: Fakes) -> None:
    body = {"model": "small", "prompt": "one two three", "n": 2, "max_tokens": 2}
    status, _, answer = small_models.request("/v1/completions", {**body, "model": "endless"})
    error = json.loads(answer)["error"]
    assert (status, error["code"]) == (502, "engine_failed") and "without a finish" in error[
        "message"
    ]
    response = small_models.json("/v1/completions", {**body, "model": "uncounted"})
    assert (response["usage"]["prompt_tokens"], response["usage"]["completion_tokens"]) == (3, 4)


def _read_choices(answer: bytes) -> tuple[list[Any], Any]:
    """What each choice says and why it ended, and the usage; plain or streamed."""
    if answer.startswith(b"{"):
        body = json.loads(answer)
        choices = body["choices"]
        return [(c["message"]["content"], c["finish_reason"]) for c in choices], body["usage"]
    chunks = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith(b"data: {")]
    texts: dict[int, list[str]] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        text = texts.setdefault(choice["index"], ["", ""])
        text[0] += choice["delta"].get("content") or ""
        text[1] += choice["finish_reason"] or ""
    return [tuple(texts[index]) for index in sorted(texts)], chunks[-1]["usage"]
