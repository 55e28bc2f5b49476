"""How tokens are drawn and when that ends: each parameter does what it says on every engine."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from tests.contract.target import CHAT, NO_END, TEXT, Target

COUNT = "1, 2, 3,"
DRAWN = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 5}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_has_at_most_so_many_tokens(name: str, target: Target) -> None:
    answer = target.chat(**{name: 3})
    assert answer.finish == "length" and answer.usage is not None
    assert answer.usage["completion_tokens"] == 3


def test_the_newer_name_of_the_limit_wins(target: Target) -> None:
    answer = target.chat(max_tokens=5, max_completion_tokens=2)
    assert answer.usage is not None and answer.usage["completion_tokens"] == 2


def test_an_answer_without_a_limit_ends_by_itself(target: Target) -> None:
    shots = "Answer with one word.\nRed?\nred\nBlue?\nblue\nGreen?"
    answer = target.chat(shots, max_tokens=None, logit_bias={target.token("\n"): -100, "2": 30})
    assert answer.finish == "stop" and answer.usage is not None
    assert answer.usage["completion_tokens"] < 64


def test_a_completion_ends_before_the_stop_sequence(embedded_target: Target) -> None:
    whole = embedded_target.complete(COUNT, max_tokens=8, logprobs=0)
    border = len("".join(whole.tokens[:4]))
    # From the end of one token to the beginning of the next: no chunk holds all of it.
    across = whole.text[border - 1 : border + 1]
    before = whole.text[: whole.text.index(across)]
    assert before, whole.text
    for stop in (across, ["never said", across]):
        for answer in embedded_target.both(COUNT, max_tokens=8, stop=stop):
            assert (answer.text, answer.finish) == (before, "stop")
            # The tokens of the stop text were generated too.
            told = answer.usage["completion_tokens"] if answer.usage else 5
            assert 4 <= told <= 8


def test_a_stop_text_that_only_begins_takes_nothing(target: Target) -> None:
    whole = target.complete(COUNT, max_tokens=3)
    for answer in target.both(COUNT, max_tokens=3, stop=[whole.text[-1] + "never said"]):
        assert (answer.text, answer.finish) == (whole.text, "length")


def test_a_seed_draws_the_same_alone_and_beside_others(target: Target) -> None:
    def ask(seed: int) -> str:
        return target.complete("The", seed=seed, **DRAWN).text

    alone = [ask(seed) for seed in (1, 1, 2)]
    assert alone[0] == alone[1]
    assert len(set(alone)) > 1
    others = ParallelStreams(target, 2)
    beside = [ask(1), ask(1)]
    others.leave()
    assert beside == [alone[0]] * 2


def test_a_seed_goes_with_a_long_prompt(target: Target) -> None:
    # Longer than what an engine reads at a time; vLLM's worker for CPUs died of that.
    long = "The sea is wide. " * 60
    assert all(target.complete(long, seed=3, **DRAWN).text for _ in range(2))


@pytest.mark.parametrize("only_one", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}], ids=str)
def test_a_cut_that_leaves_one_token_takes_the_likeliest(
    only_one: dict[str, Any], target: Target
) -> None:
    if target.honours(TEXT, **only_one):
        greedy = target.complete("The sea", max_tokens=4).text
        response = target.complete("The sea", max_tokens=4, **{"temperature": 2.0, **only_one})
        assert response.text == greedy


def test_temperature_is_not_ignored(target: Target) -> None:
    greedy = {target.complete("The", max_tokens=4).text for _ in range(2)}
    hot = {target.complete("The", max_tokens=4, temperature=2.0).text for _ in range(3)}
    assert len(greedy) == 1 and len(hot) > 1


@pytest.mark.parametrize(
    "penalty",
    [{"presence_penalty": 2.0}, {"frequency_penalty": 2.0}, {"repetition_penalty": 1.8}],
    ids=str,
)
def test_a_penalty_makes_answers_repeat_less(
    penalty: dict[str, float], embedded_target: Target
) -> None:
    if not embedded_target.honours(TEXT, **penalty):
        return
    # Digits only, of which the prompt holds none: engines differ in whether they count those.
    digits = {embedded_target.token(str(digit)): 100 for digit in range(10)}
    body = {"prompt": "ha ha ha ha ha ha ha", "logit_bias": digits}
    plain = embedded_target.complete(**body, max_tokens=8).text
    assert plain.isdigit()
    assert len(set(embedded_target.complete(**body, max_tokens=8, **penalty).text)) > len(
        set(plain)
    )


def test_a_bias_forbids_and_forces_tokens(embedded_target: Target) -> None:
    if embedded_target.honours(TEXT, logit_bias={"5": 1}):
        assert embedded_target.complete("Once upon a", max_tokens=1).text == " time"
        time = embedded_target.token(" time")
        assert (
            embedded_target.complete("Once upon a", max_tokens=1, logit_bias={time: -100}).text
            != " time"
        )
        forced = embedded_target.complete(
            "Once upon a", max_tokens=3, logit_bias={embedded_target.token(" cat"): 100}
        )
        assert forced.text == " cat cat cat"


def test_ends_can_be_ignored(target: Target) -> None:
    if target.honours(TEXT, ignore_eos=True):
        ends = {"logit_bias": {"2": 30}, "max_tokens": 6}
        assert target.complete(COUNT, **ends).finish == "stop"
        assert target.complete(COUNT, **ends, ignore_eos=True).finish == "length"


def test_a_least_number_of_tokens(target: Target) -> None:
    if target.honours(TEXT, min_tokens=4):
        answer = target.complete(COUNT, logit_bias={"2": 30}, max_tokens=6, min_tokens=4)
        assert answer.usage is not None and 4 <= answer.usage["completion_tokens"] <= 6


def test_n_gives_several_choices(target: Target) -> None:
    if target.honours(CHAT, n=2) and target.honours(TEXT, n=2):
        for path in (CHAT, TEXT):
            body = {"messages": [{"role": "user", "content": "Hi"}]} if path == CHAT else {}
            fields = {"prompt": "Hi", **body, "n": 2, "max_tokens": 2}
            fields.pop("prompt" if path == CHAT else "", None)
            choices = target.service.json(path, fields)["choices"]
            assert sorted(choice["index"] for choice in choices) == [0, 1]


class ParallelStreams:
    """Streams that run meanwhile; made when all of them have said something."""

    def __init__(self, target: Target, number: int) -> None:
        self._over = threading.Event()
        self._began: queue.Queue[None] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._run, args=(target, n)) for n in range(number)
        ]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            self._began.get(timeout=30)

    def leave(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, target: Target, number: int) -> None:
        body = {"prompt": f"{number} It was", "max_tokens": 600, "logit_bias": NO_END}
        stream = target.stream(TEXT, body)
        next(stream)
        self._began.put(None)
        for _ in stream:
            if self._over.is_set():
                stream.close()
                return
        raise AssertionError("it ended while it was needed")
