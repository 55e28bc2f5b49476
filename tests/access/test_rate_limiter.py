"""Requests and tokens per minute, and what each key took."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import psutil
import pytest

from tests.access.helpers import CHAT, KeyedService, bearer
from tests.fake_engine import write_model
from tests.waiting import eventually
from vllm_obtain.access.rate_limiter import RateLimiter, duration
from vllm_obtain.control.messages import (
    AcquireLease,
    CallerIdentity,
    ReleaseLease,
    Usage,
    UsageReply,
)
from vllm_obtain.errors import RateLimited
from vllm_obtain.supervisor.scheduling.quotas import CallerQuotas

CHATS = "/v1/chat/completions"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def limited_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    """Two workers, and a limit that no test but one reaches."""
    env = {"WORKERS": "2", "TOKENS_PER_MINUTE": "1000000"}
    with KeyedService(tmp_path_factory.mktemp("limited"), env) as service:
        eventually(lambda: len(psutil.Process(service.pid).children()) == 2)
        yield service


def ask(service: KeyedService, token: str, where: str = CHATS, **more: Any) -> Any:
    return service.ask("POST", where, bearer(token), {**CHAT, **more})


def usage(service: KeyedService, key: str) -> dict[str, Any]:
    listed = json.loads(service.ask("GET", "/v1/system/keys", bearer(service.admin))[2])["data"]
    (found,) = [one for one in listed if one["id"] == key]
    return dict(found["usage"])


def test_requests_are_counted_over_all_workers(limited_service: KeyedService) -> None:
    token, _ = limited_service.key("inference", requests_per_minute=6)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(limited_service, token), range(12)))
    good = [headers for status, headers, _ in answers if status == 200]
    bad = [(headers, body) for status, headers, body in answers if status == 429]
    assert (len(good), len(bad)) == (6, 6)
    assert {one["x-ratelimit-limit-requests"] for one in good} == {"6"}
    assert {int(one["x-ratelimit-remaining-requests"]) for one in good} == {0, 1, 2, 3, 4, 5}
    for headers, body in bad:
        response = json.loads(body)["error"]
        assert (
            response["code"] == "rate_limit_exceeded"
            and "6 requests per minute" in response["message"]
        )
        assert 1 <= int(headers["retry-after"]) <= 10
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert headers["x-ratelimit-reset-requests"].endswith("s")


@pytest.mark.parametrize("stream", [False, True])
def test_answers_and_streams_tell_what_is_left(limited_service: KeyedService, stream: bool) -> None:
    token, _ = limited_service.key("inference", requests_per_minute=100, tokens_per_minute=5000)
    for where in (CHATS, "/v1/messages"):
        headers = ask(limited_service, token, where, stream=stream)[1]
        told = {name: value for name, value in headers.items() if name.startswith("x-ratelimit")}
        assert len(told) == 6 and told["x-ratelimit-limit-tokens"] == "5000"
        assert 4000 < int(told["x-ratelimit-remaining-tokens"]) < 5000
    assert "x-ratelimit-limit-requests" not in ask(limited_service, limited_service.user)[1]


def test_the_refusal_has_the_shape_of_its_api_and_sdks_read_it(
    limited_service: KeyedService,
) -> None:
    token, _ = limited_service.key("inference", requests_per_minute=1)
    eventually(lambda: ask(limited_service, token)[0] == 429)
    response = json.loads(ask(limited_service, token, "/v1/messages")[2])
    assert (response["type"], response["error"]["type"]) == ("error", "rate_limit_error")
    response = json.loads(
        limited_service.ask("POST", "/api/chat", bearer(token), {**CHAT, "max_tokens": None})[2]
    )
    assert isinstance(response["error"], str)
    with (
        openai.OpenAI(base_url=f"{limited_service.url}/v1", api_key=token, max_retries=0) as client,
        pytest.raises(openai.RateLimitError),
    ):
        client.chat.completions.create(**CHAT)  # type: ignore[call-overload]
    with (
        openai.OpenAI(base_url=f"{limited_service.url}/v1", api_key="wrong") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_answers_from_the_cache_count_too(limited_service: KeyedService) -> None:
    token, key = limited_service.key("inference", requests_per_minute=3)
    answers = [ask(limited_service, token, temperature=0) for _ in range(4)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 429]
    assert [headers.get("x-cache") for _, headers, _ in answers[:3]] == ["miss", "hit", "hit"]
    left = [headers["x-ratelimit-remaining-requests"] for _, headers, _ in answers]
    assert left == ["2", "1", "0", "0"]
    assert usage(limited_service, key)["completion_tokens"] == 3


def test_what_a_key_took_is_told(limited_service: KeyedService) -> None:
    token, key = limited_service.key("inference", name="phone")
    for stream in (False, True):
        assert ask(limited_service, token, stream=stream)[0] == 200
    took = eventually(lambda: (now := usage(limited_service, key))["requests"] == 2 and now)
    assert took["completion_tokens"] == 6 and took["prompt_tokens"] > 0
    assert took["last_used"] > 0
    refused = limited_service.ask("GET", "/v1/system/keys", bearer(token))
    assert refused[0] == 403


@pytest.mark.slow
def test_a_service_without_keys_has_one_account(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("one")
    with KeyedService(folder, {"REQUESTS_PER_MINUTE": "1"}, keyed=False) as service:
        write_model(folder / "models", "fine")
        answers = [service.ask("POST", CHATS, body=CHAT) for _ in range(2)]
        assert [status for status, _, _ in answers] == [200, 429]
        assert "Rate limit of this service reached: 1 requests per minute" in answers[1][2].decode()


# --- The buckets ------------------------------------------------------------------------------


def seconds_to_wait(rates: RateLimiter, *limits: int, tokens: float = 1) -> float | None:
    """Seconds to wait, None when a request was let in."""
    account = rates.buckets("k", *limits)
    try:
        account.check(tokens)
    except RateLimited as error:
        return error.retry_after
    account.take("requests", 1)
    account.take("tokens", tokens)
    return None


def test_a_bucket_fills_evenly() -> None:
    clock = Clock()
    rates = RateLimiter(clock)
    assert [seconds_to_wait(rates, 60, 0) for _ in range(60)] == [None] * 60
    assert seconds_to_wait(rates, 60, 0) == pytest.approx(1)
    clock.now = 1.001
    assert seconds_to_wait(rates, 60, 0) is None
    assert seconds_to_wait(rates, 60, 0) == pytest.approx(1, abs=0.01)
    clock.now = 1000
    assert rates.buckets("k", 60, 0).headers()["x-ratelimit-remaining-requests"] == "60"
    # A limit that is lowered holds at once.
    assert rates.buckets("k", 2, 0).headers()["x-ratelimit-remaining-requests"] == "2"
    assert rates.buckets("k", 0, 0).headers() == {}


def test_what_never_fits_takes_everything_there_is() -> None:
    rates = RateLimiter(Clock())
    assert seconds_to_wait(rates, 0, 100, tokens=5000) is None
    assert seconds_to_wait(rates, 0, 100, tokens=5000) == pytest.approx(120)


def test_tokens_are_taken_in_advance_and_corrected() -> None:
    accounts, caller = CallerQuotas(), CallerIdentity("k", 0, 6000)

    def left() -> int:
        return int(accounts.buckets(caller).headers()["x-ratelimit-remaining-tokens"])

    request = AcquireLease("m", 400, 1000, 9, choices=2, caller=caller)
    first, second = accounts.reserve(request), accounts.reserve(request)
    assert first is not None and second is not None and 1800 <= left() <= 1810
    with pytest.raises(RateLimited):
        accounts.reserve(request)
    second.cancel()
    assert 3900 <= left() <= 3910
    first.settle(ReleaseLease("stop", prompt_tokens=90, completion_tokens=10))
    assert 5900 <= left() <= 5910
    reply = accounts.handlers[Usage](Usage())
    assert isinstance(reply, UsageReply) and reply.keys["k"].prompt_tokens == 90
    # One that goes on, after the end of its engine, is let in whatever is left.
    more = AcquireLease("m", 4, 9000, 9, caller=CallerIdentity("k", 0, 6000, again=True))
    assert accounts.reserve(more) and accounts.reserve(more)
    with pytest.raises(RateLimited):
        accounts.reserve(request)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0ms"), (0.0201, "21ms"), (1, "1s"), (1.5, "1.5s"), (60, "1m0s"), (90.25, "1m30.2s")],
)
def test_durations_are_written_as_openai_does(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_embeddings_in_many_pieces_are_one_request() -> None:
    accounts = CallerQuotas()
    for again in (False, True, True):
        assert accounts.reserve(AcquireLease("m", 4, 0, 9, caller=CallerIdentity("k", 1, 0, again)))
    with pytest.raises(RateLimited):
        accounts.reserve(AcquireLease("m", 4, 0, 9, caller=CallerIdentity("k", 1, 0)))
