"""Stop texts, found wherever the pieces of an answer are cut."""

from __future__ import annotations

import random

import pytest

from vllm_obtain.gateway.inference.stop_sequences import StopSequenceFilter
from vllm_obtain.protocol.events import Event, Finish, TextDelta

TEXT = "one, two, three; two, four."


def run(stops: StopSequenceFilter, text: str, size: int, reason: str = "length") -> tuple[str, str]:
    pieces: list[Event] = [TextDelta(text[at : at + size]) for at in range(0, len(text), size)]
    passed = [out for event in [*pieces, Finish(reason)] for out in stops.filter([event])]
    (finish,) = [event for event in passed if isinstance(event, Finish)]
    assert passed[-1] is finish
    return "".join(event.text for event in passed if isinstance(event, TextDelta)), finish.reason


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
    assert run(StopSequenceFilter(stops, 1), TEXT, size) == (expected, reason)


def test_what_cannot_begin_one_is_not_kept_back() -> None:
    stops = StopSequenceFilter(["abc"], 1)
    assert stops.filter([TextDelta("xa")]) == []
    assert stops.filter([TextDelta("y")]) == [TextDelta("xa"), TextDelta("y")]
    assert stops.filter([TextDelta("z")]) == [TextDelta("z")]


def test_pieces_of_the_stop_text_are_counted() -> None:
    stops = StopSequenceFilter(["abc"], 1)
    for piece in ("x", "a", "b", "cd"):
        stops.filter([TextDelta(piece)])
    assert (stops.found, stops.swallowed) == (True, 3)
    other = StopSequenceFilter(["abc"], 1)
    other.filter([TextDelta("ab"), Finish("length")])
    assert (other.found, other.swallowed) == (False, 0)


def test_choices_end_each_for_itself() -> None:
    stops = StopSequenceFilter(["b"], 2)
    assert stops.filter([TextDelta("ab", None, 0), TextDelta("cc", None, 1)]) == [
        TextDelta("a", None, 0),
        Finish("stop", 0, "b"),
        TextDelta("cc", None, 1),
    ]
    assert stops.filter([TextDelta("more", None, 0), Finish("length", 0)]) == []
    assert stops.filter([Finish("length", 1)]) == [Finish("length", 1)]


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
        assert run(StopSequenceFilter(stops, 1), text, 1) in (
            expected,
            (text[: min(grown, default=0)], "stop"),
        )
