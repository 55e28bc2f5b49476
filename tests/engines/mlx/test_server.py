"""Our MLX server: a real process with a tiny random model, asked over its socket."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.mlx.client import GREEDY, Answer, Server, run_server
from tests.engines.mlx.model import write_model
from vllm_obtain.engines.stream_parser import read_error
from vllm_obtain.errors import ContextLengthExceeded, InvalidRequest

pytestmark = pytest.mark.engine

CONTEXT = 2400
CHUNK = 64
LONG = "".join(chr(97 + n * n % 23) for n in range(2100))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("mlx") / "tiny")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as runtime,
        run_server(folder, Path(runtime), slots=8, context=CONTEXT, prefill_chunk=CHUNK) as running,
    ):
        yield running


def ids(answer: Answer) -> list[int]:
    return [entry["id"] for entry in answer.logprobs]


# --- Shapes ---------------------------------------------------------------------------------------


def test_a_completion_has_progress_text_finish_and_usage(server: Server) -> None:
    answer = server.complete("The shape of it", max_tokens=6, **GREEDY)
    assert answer.status == 200 and answer.done
    assert answer.progress[0] == {"total": 15, "processed": 0, "cache": 0}
    assert answer.progress[-1] == {"total": 15, "processed": 15, "cache": 0}
    assert len(answer.text) == 6 and answer.finish == "length"
    assert answer.usage["prompt_tokens"] == 15
    assert (answer.usage["completion_tokens"], answer.usage["total_tokens"]) == (6, 21)
    assert {chunk["object"] for chunk in answer.chunks} == {"text_completion"}
    assert answer.chunks[-1]["choices"] == [] and answer.chunks[-2]["choices"][0]["finish_reason"]


def test_special_tokens_end_a_completion_or_have_no_text(server: Server) -> None:
    ended = server.complete("abc", max_tokens=9, logit_bias={"257": 100}, **GREEDY)
    assert (ended.text, ended.finish, ended.usage["completion_tokens"]) == ("", "stop", 1)
    silent = server.complete("abc", max_tokens=3, logit_bias={"258": 100}, **GREEDY)
    assert (silent.text, silent.finish) == ("", "length")


def test_characters_are_never_split(server: Server) -> None:
    letters = "é".encode()
    first = server.stream("abc", max_tokens=8, logit_bias={str(b): 60 for b in letters}, seed=4)
    deltas = [choice["text"] for choice in first.read().choices]
    assert "".join(deltas).count("é") + "".join(deltas).count("�") >= 4
    whole = server.complete("x", max_tokens=1, logit_bias={str(letters[0]): 100}, **GREEDY)
    assert whole.text == "", "nobody can read half a character"


# --- Drawing --------------------------------------------------------------------------------------


def varied_requests() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0, "presence_penalty": 1.5, "frequency_penalty": 0.5},
        {"temperature": 0, "repetition_penalty": 1.3, "logit_bias": {"97": 3}},
        {"seed": 7, "temperature": 1.0, "top_k": 20},
        {"seed": 7, "temperature": 0.7, "top_p": 0.8},
        {"seed": 8, "temperature": 1.2, "min_p": 0.1, "top_k": 40, "top_p": 0.95},
        {"seed": -3, "frequency_penalty": 1.0},
        {"seed": 2**62, "temperature": 1.0, "logit_bias": {"98": -100}},
    ]
    return [
        {"prompt": LONG[n : n + 5 + 11 * n], "max_tokens": 24 + n, "logprobs": 2, **rule}
        for n, rule in enumerate(rules)
    ]


def test_a_request_has_the_same_completion_alone_and_in_a_batch(server: Server) -> None:
    alone = [server.complete(**request) for request in varied_requests()]
    batch = server.together(varied_requests())
    assert [ids(answer) for answer in batch] == [ids(answer) for answer in alone]
    assert [answer.text for answer in batch] == [answer.text for answer in alone]
    assert len({answer.text for answer in alone}) == len(alone)


def test_seeds_differ_and_a_missing_seed_is_random(server: Server) -> None:
    def drawn(**rule: Any) -> str:
        return server.complete("seed", max_tokens=20, top_k=20, **rule).text

    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)
    assert drawn() != drawn()


def test_top_k_of_one_and_tiny_top_p_are_greedy(server: Server) -> None:
    greedy = server.complete("cut", max_tokens=12, **GREEDY).text
    for rule in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"top_p": 0}):
        assert server.complete("cut", max_tokens=12, temperature=2, **rule).text == greedy


def test_top_k_samples_from_the_most_likely_tokens_only(server: Server) -> None:
    answer = server.complete("few", max_tokens=40, temperature=2, top_k=3, logprobs=5)
    assert all(
        entry["id"] in [other["id"] for other in entry["top_logprobs"][:3]]
        for entry in answer.logprobs
    )


def test_a_bias_forbids_and_forces(server: Server) -> None:
    forced = server.complete("x", max_tokens=5, logit_bias={"65": 100}, temperature=1)
    assert forced.text == "AAAAA"
    plain = server.complete("x", max_tokens=20, **GREEDY).text
    bias = {str(ord(plain[0])): -100}
    assert plain[0] not in server.complete("x", max_tokens=20, logit_bias=bias, **GREEDY).text


def test_presence_penalty_counts_the_completion_and_repetition_penalty_also_the_prompt(
    server: Server,
) -> None:
    bias = {"65": 40, "66": 38, "67": 36}

    def first(**rule: Any) -> str:
        return server.complete("xAA", max_tokens=3, logit_bias=bias, **GREEDY, **rule).text

    assert first() == "AAA"
    assert first(presence_penalty=5) == "ABC"
    assert first(frequency_penalty=1.5) == "AAB"
    likeliest = server.complete("rep", max_tokens=1, **GREEDY).text
    prompt = likeliest * 3 + "rep"
    fresh = server.complete(prompt, max_tokens=5, repetition_penalty=100, **GREEDY).text
    assert len(set(fresh)) == 5 and not set(fresh) & set(prompt)


def test_log_probabilities_are_those_before_penalties(server: Server) -> None:
    answer = server.complete("log", max_tokens=5, logprobs=3, **GREEDY)
    assert "".join(entry["token"] for entry in answer.logprobs) == answer.text
    for entry in answer.logprobs:
        assert len(entry["top_logprobs"]) == 3
        best = entry["top_logprobs"][0]
        assert (best["id"], best["logprob"]) == (entry["id"], pytest.approx(entry["logprob"]))
        values = [other["logprob"] for other in entry["top_logprobs"]]
        assert values == sorted(values, reverse=True) and values[0] <= 0
    biased = server.complete("log", max_tokens=1, logprobs=0, logit_bias={"65": 100}, **GREEDY)
    assert biased.text == "A" and biased.logprobs[0]["logprob"] < -2
    assert biased.logprobs[0]["top_logprobs"] == []


# --- Stop texts -----------------------------------------------------------------------------------


def test_a_completion_ends_before_the_stop_sequence(server: Server) -> None:
    plain = server.complete("stop", max_tokens=30, seed=3, top_k=5).text
    for stop in (plain[10:13], [plain[10:13], "never there"], plain[10]):
        answer = server.complete("stop", max_tokens=30, seed=3, top_k=5, stop=stop, logprobs=1)
        end = plain.index(stop if isinstance(stop, str) else stop[0])
        assert (answer.text, answer.finish) == (plain[:end], "stop")
        (last,) = [choice for choice in answer.choices if choice["finish_reason"]]
        assert last["stop_reason"] == (stop if isinstance(stop, str) else stop[0])
        assert "".join(entry["token"] for entry in answer.logprobs) == plain[:end]


def test_text_withheld_for_a_stop_sequence_is_not_lost(server: Server) -> None:
    plain = server.complete("held", max_tokens=12, **GREEDY).text
    answer = server.complete("held", max_tokens=12, stop=plain[8:] + "?", logprobs=0, **GREEDY)
    assert (answer.text, answer.finish) == (plain, "length")
    assert "".join(entry["token"] for entry in answer.logprobs) == plain


# --- Limits and refusals --------------------------------------------------------------------------


def test_a_prompt_that_fills_the_context_is_rejected_in_llama_cpps_format(server: Server) -> None:
    answer = server.complete("x" * (CONTEXT + 5), max_tokens=1)
    assert answer.status == 400 and answer.error is not None
    assert answer.error["type"] == "exceed_context_size_error"
    assert (answer.error["n_prompt_tokens"], answer.error["n_ctx"]) == (CONTEXT + 5, CONTEXT)
    import json

    read = read_error(json.dumps({"error": answer.error}).encode(), 400)
    assert isinstance(read, ContextLengthExceeded)


def test_a_completion_without_max_tokens_ends_with_the_context(server: Server) -> None:
    answer = server.complete("x" * (CONTEXT - 10), max_tokens=-1, logit_bias={"65": 100}, **GREEDY)
    assert (answer.text, answer.finish) == ("A" * 10, "length")


BAD: list[tuple[dict[str, Any], str | None]] = [
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"top_k": 1.5}, "top_k"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"stop": 7}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"9999": 1}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"seed": True}, "seed"),
    ({"logprobs": 99}, "logprobs"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": [1, -2]}, "prompt"),
    ({"prompt": [260]}, "prompt"),
    ({"prompt": ["a"]}, "prompt"),
    ({"stream": False}, "stream"),
]


@pytest.mark.parametrize(("change", "param"), BAD, ids=str)
def test_an_invalid_value_is_rejected_with_its_name(
    server: Server, change: dict[str, Any], param: str | None
) -> None:
    answer = server.complete(**{"prompt": "x", "max_tokens": 1, **change})
    assert answer.status == 400 and answer.error is not None
    assert answer.error["param"] == param and answer.error["message"]


RAW = [
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 4\r\n\r\n{{{{",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 3\r\n\r\n\xff\xff\xff",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100000,
]


@pytest.mark.parametrize("data", RAW, ids=lambda data: str(data[-12:]))
def test_a_malformed_body_is_a_400(server: Server, data: bytes) -> None:
    answer = server.raw(data)
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert isinstance(read_error(answer.partition(b"\r\n\r\n")[2], 400), InvalidRequest)


def test_the_server_survives_invalid_and_incomplete_requests(server: Server) -> None:
    server.raw(b"\x00\x01\x02")
    server.raw(b"GET\r\n\r\n")
    server.raw(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 50\r\n\r\n{}")
    server.raw(b"A" * 200_000 + b"\r\n\r\n")
    assert server.get("/nowhere").startswith(b"HTTP/1.1 404")
    assert server.complete("alive", max_tokens=1).done


# --- Sharing the model ----------------------------------------------------------------------------


def test_a_repeated_prompt_is_not_processed_again(server: Server) -> None:
    prompt = "A prompt of some length, asked twice."
    first = server.complete(prompt, max_tokens=8, **GREEDY)
    again = server.complete(prompt, max_tokens=8, **GREEDY)
    assert (first.cached, again.cached) == (0, len(prompt) - 1)
    assert again.text == first.text
    assert again.progress[0] == {"total": len(prompt), "processed": 36, "cache": 36}
    longer = prompt + first.text + " And a second question."
    grown = server.complete(longer, max_tokens=8, **GREEDY)
    assert grown.cached == len(prompt + first.text)
    forked = server.complete(prompt[:30] + "!!!!!", max_tokens=8, **GREEDY)
    assert forked.cached == 30


def test_a_disconnect_frees_the_slot(server: Server) -> None:
    stream = server.stream("going", max_tokens=2500, logit_bias={"257": -100})
    stream.until(b'"text"')
    assert server.metrics["running"] == 1
    stream.close()
    server.until(lambda now: now["running"] == 0)
    assert server.metrics["generated_tokens"] < 2500
    steps = server.metrics["steps"]
    assert server.metrics["steps"] == steps


def test_a_disconnect_during_prefill_frees_the_slot(server: Server) -> None:
    before = server.metrics["prompt_tokens"]
    stream = server.stream("~" + LONG, max_tokens=5)
    stream.until(b'"processed":64')
    stream.close()
    server.until(lambda now: now["running"] == 0)
    assert server.metrics["prompt_tokens"] - before < len(LONG)
    resumed = server.complete("~" + LONG[:200], max_tokens=1)
    assert resumed.cached >= CHUNK


def test_a_long_prompt_does_not_stall_a_running_stream(server: Server) -> None:
    running = server.stream("first", max_tokens=400, seed=1, logit_bias={"257": -100})
    running.until(b'"text"')
    long = server.stream("#" + LONG, max_tokens=1)
    begun = server.metrics
    answer = long.read()
    ended = server.metrics
    pieces = -(-len(LONG) // CHUNK)
    assert answer.cached == 0 and len(answer.progress) >= pieces
    # A token of the running stream for each piece of the prompt.
    assert ended["generated_tokens"] - begun["generated_tokens"] >= pieces * 0.8
    assert running.read().usage["completion_tokens"] == 400


def test_a_short_prompt_does_not_wait_for_a_long_one(server: Server) -> None:
    long = server.stream("%" + LONG, max_tokens=1)
    long.until(b'"processed":64')
    short = server.complete("quick", max_tokens=1)
    assert short.done
    server.until(lambda now: now["running"] == 1)
    assert long.read().done


def test_requests_above_the_slot_count_wait(server: Server) -> None:
    requests = [{"prompt": f"turn {n}", "max_tokens": 10, **GREEDY} for n in range(20)]
    answers = server.together(requests)
    assert all(answer.usage["completion_tokens"] == 10 for answer in answers)
    server.until(lambda now: now["running"] == now["waiting"] == 0)


def test_sequences_that_outgrow_their_length_class_continue(server: Server) -> None:
    forbidden = {"logit_bias": {"257": -100}, **GREEDY}
    near = [{"prompt": LONG[n:990], "max_tokens": -1, **forbidden} for n in (0, 50)]
    short = {"prompt": "short", "max_tokens": 150, **forbidden}
    answers = server.together([*near, short])
    assert [a.usage["total_tokens"] for a in answers] == [CONTEXT, CONTEXT, 155]
    alone = server.complete(**near[0])
    assert answers[0].text[:300] == alone.text[:300]


def test_warm_up_requests_leave_no_counters_and_no_cache(folder: Path) -> None:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as runtime,
        run_server(folder, Path(runtime), slots=8, context=300, device="auto") as warmed_up,
    ):
        told = warmed_up.metrics
        assert told["steps"] == told["generated_tokens"] == told["prefix_bytes"] == 0
        assert warmed_up.complete("The shape of it", max_tokens=6, **GREEDY).usage
