"""Log probabilities, and what the greedy answers of the engines have in common."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from tests.contract.target import Answer, Body, Target, run_concurrently
from tests.fleet import Fleet, engine

QUESTION = "What is the capital of France?"
TEXTS = ["1, 2, 3, 4,", "Once upon a time", "def add(a, b):", "The sea is"]
# Two tokens whose log probabilities are this close may change places by rounding alone: llama.cpp
# rounds what it multiplies to 8 bits, and bfloat16 in vLLM has steps of 0.125 where the logits are.
# Seen against llama.cpp: MLX 2 of 5 texts the same, the others part at gaps of 0.10 to 0.24; vLLM 1
# of 5, at 0.09 to 0.25. MLX and vLLM agree with each other more than either does with llama.cpp.
ROUNDING = 0.4


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_chats_tell_them_for_each_token(stream: bool, target: Target) -> None:
    if target.honours(logprobs=True) and target.honours(logprobs=True, top_logprobs=3):
        answer = target.chat(max_tokens=4, logprobs=True, top_logprobs=3, stream=stream)
        assert "".join(answer.tokens) == answer.text and len(answer.entries) == 4
        for entry in answer.entries:
            top = entry["top_logprobs"]
            assert bytes(entry["bytes"]).decode() == entry["token"]
            assert len(top) == 3 and top[0]["token"] == entry["token"], "greedy takes the first"
            values = [other["logprob"] for other in top]
            assert 0 >= values[0] == entry["logprob"] and values == sorted(values, reverse=True)
        bare = target.chat(max_tokens=2, logprobs=True, stream=stream)
        assert [entry["top_logprobs"] for entry in bare.entries] == [[], []]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_text_completions_tell_them_in_lists(stream: bool, target: Target) -> None:
    if target.honours("/v1/completions", logprobs=2):
        answer = target.complete("Once upon a", max_tokens=4, logprobs=2, stream=stream)
        assert "".join(answer.tokens) == answer.text and len(answer.entries) == 4
        place = 0
        for entry in answer.entries:
            assert entry["offset"] == place and len(entry["top"]) == 2
            assert entry["logprob"] == max(entry["top"].values()) <= 0
            place += len(entry["token"])


@pytest.fixture(scope="session")
def reference(fleet: Fleet, tokenizer: Tokenizer) -> list[Answer]:
    """What the embedded model says in the engine that loads its file as it is."""
    return _greedy(Target(engine("llama_cpp"), fleet.service("llama_cpp"), tokenizer))


def test_greedy_answers_begin_the_same_on_all_engines(
    embedded_target: Target, reference: list[Answer]
) -> None:
    for ours, theirs in zip(_greedy(embedded_target), reference, strict=True):
        _same_or_close(ours, theirs)


def _greedy(target: Target) -> list[Answer]:
    asks = [lambda: target.chat(QUESTION, max_tokens=16, logprobs=True, top_logprobs=5)]
    asks += [lambda t=text: target.complete(t, max_tokens=16, logprobs=5) for text in TEXTS]
    return run_concurrently(asks)


def _same_or_close(ours: Answer, theirs: Answer) -> None:
    for mine, other in zip(ours.entries, theirs.entries, strict=False):
        gap = mine["logprob"] - _likely(mine).get(other["token"], float("-inf"))
        assert gap <= ROUNDING, (mine, other)
        if mine["token"] != other["token"]:
            return  # two next words as good as each other: from here on the texts differ
    assert ours.tokens == theirs.tokens


def _likely(entry: Body) -> dict[str, float]:
    """The likeliest tokens, from either shape."""
    if "top" in entry:
        return dict(entry["top"])
    return {other["token"]: other["logprob"] for other in entry["top_logprobs"]}
