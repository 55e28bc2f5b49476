"""Requests and tokens per minute, and what each key took."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import psutil
import pytest

from tests.access.helpers import CHAT, Guarded, bearer
from tests.fake_engine import write_model
from tests.service import eventually
from vllm_obtain.access.rates import Rates, duration
from vllm_obtain.errors import RateLimited
from vllm_obtain.messages import Acquire, Caller, Release
from vllm_obtain.supervisor.accounts import Accounts

CHATS = "/v1/chat/completions"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Two workers, and a limit that no test but one reaches."""
    env = {"WORKERS": "2", "TOKENS_PER_MINUTE": "1000000"}
    with Guarded(tmp_path_factory.mktemp("limited"), env) as made:
        eventually(lambda: len(psutil.Process(made.pid).children()) == 2)
        yield made


def ask(service: Guarded, token: str, where: str = CHATS, **more: Any) -> Any:
    return service.ask("POST", where, bearer(token), {**CHAT, **more})


def usage(service: Guarded, key: str) -> dict[str, Any]:
    listed = json.loads(service.ask("GET", "/v1/system/keys", bearer(service.admin))[2])["data"]
    (found,) = [one for one in listed if one["id"] == key]
    return dict(found["usage"])


def test_requests_are_counted_over_all_workers(limited: Guarded) -> None:
    token, _ = limited.key("inference", requests_per_minute=6)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(limited, token), range(12)))
    good = [headers for status, headers, _ in answers if status == 200]
    bad = [(headers, body) for status, headers, body in answers if status == 429]
    assert (len(good), len(bad)) == (6, 6)
    assert {one["x-ratelimit-limit-requests"] for one in good} == {"6"}
    assert {int(one["x-ratelimit-remaining-requests"]) for one in good} == {0, 1, 2, 3, 4, 5}
    for headers, body in bad:
        told = json.loads(body)["error"]
        assert told["code"] == "rate_limit_exceeded" and "6 requests per minute" in told["message"]
        assert 1 <= int(headers["retry-after"]) <= 10
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert headers["x-ratelimit-reset-requests"].endswith("s")


@pytest.mark.parametrize("stream", [False, True])
def test_answers_and_streams_tell_what_is_left(limited: Guarded, stream: bool) -> None:
    token, _ = limited.key("inference", requests_per_minute=100, tokens_per_minute=5000)
    for where in (CHATS, "/v1/messages"):
        headers = ask(limited, token, where, stream=stream)[1]
        told = {name: value for name, value in headers.items() if name.startswith("x-ratelimit")}
        assert len(told) == 6 and told["x-ratelimit-limit-tokens"] == "5000"
        assert 4000 < int(told["x-ratelimit-remaining-tokens"]) < 5000
    assert "x-ratelimit-limit-requests" not in ask(limited, limited.user)[1]


def test_the_refusal_has_the_shape_of_its_api_and_sdks_read_it(limited: Guarded) -> None:
    token, _ = limited.key("inference", requests_per_minute=1)
    eventually(lambda: ask(limited, token)[0] == 429)
    told = json.loads(ask(limited, token, "/v1/messages")[2])
    assert (told["type"], told["error"]["type"]) == ("error", "rate_limit_error")
    told = json.loads(
        limited.ask("POST", "/api/chat", bearer(token), {**CHAT, "max_tokens": None})[2]
    )
    assert isinstance(told["error"], str)
    with (
        openai.OpenAI(base_url=f"{limited.url}/v1", api_key=token, max_retries=0) as client,
        pytest.raises(openai.RateLimitError),
    ):
        client.chat.completions.create(**CHAT)  # type: ignore[call-overload]
    with (
        openai.OpenAI(base_url=f"{limited.url}/v1", api_key="wrong") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_answers_from_the_cache_count_too(limited: Guarded) -> None:
    token, key = limited.key("inference", requests_per_minute=3)
    answers = [ask(limited, token, temperature=0) for _ in range(4)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 429]
    assert [headers.get("x-cache") for _, headers, _ in answers[:3]] == ["miss", "hit", "hit"]
    left = [headers["x-ratelimit-remaining-requests"] for _, headers, _ in answers]
    assert left == ["2", "1", "0", "0"]
    assert usage(limited, key)["completion_tokens"] == 3


def test_what_a_key_took_is_told(limited: Guarded) -> None:
    token, key = limited.key("inference", name="phone")
    for stream in (False, True):
        assert ask(limited, token, stream=stream)[0] == 200
    took = eventually(lambda: (now := usage(limited, key))["requests"] == 2 and now)
    assert took["completion_tokens"] == 6 and took["prompt_tokens"] > 0
    assert took["last_used"] > 0
    refused = limited.ask("GET", "/v1/system/keys", bearer(token))
    assert refused[0] == 403


def test_a_service_without_keys_has_one_account(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("one")
    with Guarded(folder, {"REQUESTS_PER_MINUTE": "1"}, keyed=False) as service:
        write_model(folder / "models", "fine")
        answers = [service.ask("POST", CHATS, body=CHAT) for _ in range(2)]
        assert [status for status, _, _ in answers] == [200, 429]
        assert "Clients here have 1 requests per minute" in answers[1][2].decode()


# --- The buckets ------------------------------------------------------------------------------


def refused(rates: Rates, *limits: int, tokens: float = 1) -> float | None:
    """Seconds to wait, None when a request was let in."""
    account = rates.account("k", *limits)
    try:
        account.check(tokens)
    except RateLimited as error:
        return error.retry_after
    account.take("requests", 1)
    account.take("tokens", tokens)
    return None


def test_a_bucket_fills_evenly() -> None:
    clock = Clock()
    rates = Rates(clock)
    assert [refused(rates, 60, 0) for _ in range(60)] == [None] * 60
    assert refused(rates, 60, 0) == pytest.approx(1)
    clock.now = 1.001
    assert refused(rates, 60, 0) is None
    assert refused(rates, 60, 0) == pytest.approx(1, abs=0.01)
    clock.now = 1000
    assert rates.account("k", 60, 0).headers()["x-ratelimit-remaining-requests"] == "60"
    # A limit that is lowered holds at once.
    assert rates.account("k", 2, 0).headers()["x-ratelimit-remaining-requests"] == "2"
    assert rates.account("k", 0, 0).headers() == {}


def test_what_never_fits_takes_everything_there_is() -> None:
    rates = Rates(Clock())
    assert refused(rates, 0, 100, tokens=5000) is None
    assert refused(rates, 0, 100, tokens=5000) == pytest.approx(120)


def test_tokens_are_taken_in_advance_and_corrected() -> None:
    accounts, caller = Accounts(), Caller("k", 0, 6000)

    def left() -> int:
        return int(accounts.of(caller).headers()["x-ratelimit-remaining-tokens"])

    asked = Acquire("m", 400, 1000, 9, choices=2, caller=caller)
    first, second = accounts.bill(asked), accounts.bill(asked)
    assert first is not None and second is not None and 1800 <= left() <= 1810
    with pytest.raises(RateLimited):
        accounts.bill(asked)
    second.cancel()
    assert 3900 <= left() <= 3910
    first.settle(Release("stop", prompt_tokens=90, completion_tokens=10))
    assert 5900 <= left() <= 5910
    assert accounts.usage["k"].prompt_tokens == 90
    # One that goes on, after the end of its engine, is let in whatever is left.
    more = Acquire("m", 4, 9000, 9, caller=Caller("k", 0, 6000, again=True))
    assert accounts.bill(more) and accounts.bill(more)
    with pytest.raises(RateLimited):
        accounts.bill(asked)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0ms"), (0.0201, "21ms"), (1, "1s"), (1.5, "1.5s"), (60, "1m0s"), (90.25, "1m30.2s")],
)
def test_durations_are_written_as_openai_does(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_embeddings_in_many_pieces_are_one_request() -> None:
    accounts = Accounts()
    for again in (False, True, True):
        assert accounts.bill(Acquire("m", 4, 0, 9, caller=Caller("k", 1, 0, again)))
    with pytest.raises(RateLimited):
        accounts.bill(Acquire("m", 4, 0, 9, caller=Caller("k", 1, 0)))
