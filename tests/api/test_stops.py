"""Stop texts, found wherever the pieces of an answer are cut."""

from __future__ import annotations

import random

import pytest

from vllm_obtain.api.stops import Stops
from vllm_obtain.protocol.events import Delta, Event, Finish

TEXT = "one, two, three; two, four."


def run(stops: Stops, text: str, size: int, reason: str = "length") -> tuple[str, str]:
    pieces: list[Event] = [Delta(text[at : at + size]) for at in range(0, len(text), size)]
    passed = [out for event in [*pieces, Finish(reason)] for out in stops.read([event])]
    (finish,) = [event for event in passed if isinstance(event, Finish)]
    assert passed[-1] is finish
    return "".join(event.text for event in passed if isinstance(event, Delta)), finish.reason


@pytest.mark.parametrize("size", [1, 2, 3, 5, 99])
@pytest.mark.parametrize(
    ("stops", "expected", "reason"),
    [
        (["two"], "one, ", "stop"),
        (["three", "two"], "one, ", "stop"),
        (["one"], "", "stop"),
        (["four.", "; t"], "one, two, three", "stop"),
        (["two, five", "four!"], TEXT, "length"),
        ([". "], TEXT, "length"),
        ([TEXT], "", "stop"),
    ],
)
def test_an_answer_ends_before_the_first(
    stops: list[str], expected: str, reason: str, size: int
) -> None:
    assert run(Stops(stops, 1), TEXT, size) == (expected, reason)


def test_what_cannot_begin_one_is_not_kept_back() -> None:
    stops = Stops(["abc"], 1)
    assert stops.read([Delta("xa")]) == []
    assert stops.read([Delta("y")]) == [Delta("xa"), Delta("y")]
    assert stops.read([Delta("z")]) == [Delta("z")]


def test_pieces_of_the_stop_text_are_counted() -> None:
    stops = Stops(["abc"], 1)
    for piece in ("x", "a", "b", "cd"):
        stops.read([Delta(piece)])
    assert (stops.found, stops.swallowed) == (True, 3)
    other = Stops(["abc"], 1)
    other.read([Delta("ab"), Finish("length")])
    assert (other.found, other.swallowed) == (False, 0)


def test_choices_end_each_for_itself() -> None:
    stops = Stops(["b"], 2)
    assert stops.read([Delta("ab", None, 0), Delta("cc", None, 1)]) == [
        Delta("a", None, 0),
        Finish("stop", 0, "b"),
        Delta("cc", None, 1),
    ]
    assert stops.read([Delta("more", None, 0), Finish("length", 0)]) == []
    assert stops.read([Finish("length", 1)]) == [Finish("length", 1)]


def test_any_text_and_any_stops() -> None:
    seed = random.randrange(10**6)  # noqa: S311 - no secret
    print("seed", seed)
    draw = random.Random(seed)  # noqa: S311
    for _ in range(500):
        text = "".join(draw.choices("ab", k=draw.randint(1, 30)))
        stops = ["".join(draw.choices("ab", k=draw.randint(1, 5))) for _ in range(2)]
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        expected = (text[: min(found)], "stop") if found else (text, "length")
        # The earliest end wins where engines see a text grow, the earliest beginning in a whole
        # one: both are allowed when two stops overlap.
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        first = min(ends, default=0)
        grown = [at for stop in stops if (at := text[:first].find(stop)) >= 0]
        assert run(Stops(stops, 1), text, 1) in (expected, (text[: min(grown, default=0)], "stop"))
