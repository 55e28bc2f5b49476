"""What a model writes, cut anywhere, comes out as reasoning, text and calls."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from vllm_obtain.chat.output_parser import OutputParser
from vllm_obtain.chat.reasoning_tags import ReasoningTags
from vllm_obtain.chat.tool_call_format import ToolCallFormat
from vllm_obtain.chat.tool_prompt import FORMAT
from vllm_obtain.protocol.completion import CompletedChoice, gather
from vllm_obtain.protocol.events import Event, Finish, TextDelta, Usage

THINK = ReasoningTags("<think>", "</think>")
BARE = ToolCallFormat('{"name": "', '", "parameters": ', '}; {"name": "', "}")
FULL = OutputParser(THINK, False, FORMAT)


def call(name: str, arguments: str) -> str:
    return FORMAT.write([(name, arguments)])


def batches(text: str, seed: int | None, reason: str = "stop") -> Iterator[list[Event]]:
    """A text as an engine would send it, in pieces that a seed cuts; None for single characters."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    at = 0
    while at < len(text):
        size = 1 if seed is None else draw.randint(1, 9)
        yield [TextDelta(text[at : at + size])]
        at += size
    yield [Finish(reason)]
    yield [Usage(5, len(text))]


def read(
    reading: OutputParser, text: str, seed: int | None = None, reason: str = "stop"
) -> CompletedChoice:
    said, _ = gather(reading.parse(batches(text, seed, reason)), 1)
    return said[0]


CASES = [
    (FULL, "Hello there.", ("", "Hello there.", []), "stop"),
    (FULL, "<think>\nHm.\n</think>\n\nHello.", ("Hm.", "Hello.", []), "stop"),
    (FULL, call("f", '{"a": 1}'), ("", "", [("f", '{"a": 1}')]), "tool_calls"),
    (
        FULL,
        "<think>x</think>Well:\n\n" + call("f", "{}"),
        ("x", "Well:", [("f", "{}")]),
        "tool_calls",
    ),
    (
        FULL,
        FORMAT.write([("f", '{"a": "}{\\"]"}'), ("g", '{"b": [{"c": {}}]}')]),
        ("", "", [("f", '{"a": "}{\\"]"}'), ("g", '{"b": [{"c": {}}]}')]),
        "tool_calls",
    ),
    (FULL, "a < b <tool and <tool_cal", ("", "a < b <tool and <tool_cal", []), "stop"),
    (FULL, "  two words  ", ("", "two words  ", []), "stop"),
    (FULL, "say <think> loud", ("", "say <think> loud", []), "stop"),
    (OutputParser(THINK, True), "so\n</think>\nyes", ("so", "yes", []), "stop"),
    (OutputParser(THINK, True), "no end", ("no end", "", []), "stop"),
    (OutputParser(THINK), "\n<think></think>yes", ("", "yes", []), "stop"),
    (
        OutputParser(None, False, BARE),
        BARE.write([("f", "{}"), ("g", "{}")]),
        ("", "", [("f", "{}"), ("g", "{}")]),
        "tool_calls",
    ),
    (
        OutputParser(None, False, BARE),
        'see {"name": "x"}',
        ("", 'see {"name": "x"}', []),
        "stop",
    ),
    (OutputParser(None, False, FORMAT, False), call("f", "{}"), ("", "", [("f", "{}")]), "stop"),
]


@pytest.mark.parametrize(("reading", "text", "expected", "reason"), CASES)
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_an_answer_means_the_same_however_it_is_cut(
    reading: OutputParser, text: str, expected: object, reason: str, seed: int | None
) -> None:
    choices = read(reading, text, seed)
    assert (
        choices.reasoning,
        choices.text,
        [(c.name, c.arguments) for c in choices.calls],
    ) == expected
    assert choices.reason == reason
    assert len({c.id for c in choices.calls}) == len(choices.calls)


def test_a_call_that_is_cut_off_never_leaks_as_text() -> None:
    whole = "Well. " + call("f", '{"a": "b"}')
    for end in range(len(whole)):
        choices = read(FULL, whole[:end], reason="length")
        assert choices.reason == "length"
        assert "Well. <tool_call>".startswith(choices.text) or choices.text == whole[:end].strip()
        assert not choices.calls or '{"a": "b"}'.startswith(choices.calls[0].arguments)


def test_a_call_goes_out_in_pieces() -> None:
    events = [
        e for batch in FULL.parse(batches(call("f", '{"a": "bcdefgh"}'), None)) for e in batch
    ]
    calls = [event for event in events if type(event).__name__ == "ToolCallDelta"]
    assert len(calls) > 8
    assert (calls[0].name, calls[0].arguments) == ("f", "")  # type: ignore[union-attr]
    assert calls[0].id and all(not piece.id for piece in calls[1:])  # type: ignore[union-attr]


def test_tokens_of_reasoning_are_counted() -> None:
    given: list[list[Event]] = [
        [TextDelta(word)] for word in ("<think>", "a", "b", "</think>", "c")
    ]
    _, usage = gather(FULL.parse(iter([*given, [Finish("stop")], [Usage(5, 5, 2)]])), 1)
    assert usage == Usage(5, 5, 2, 3)


def test_choices_are_told_apart() -> None:
    given: list[list[Event]] = [
        [TextDelta("<think>a", None, 0), TextDelta("b", None, 1)],
        [TextDelta("</think>c", None, 0), TextDelta("d", None, 1)],
        [Finish("stop", 0), Finish("stop", 1)],
    ]
    said, _ = gather(FULL.parse(iter(given)), 2)
    assert [(one.reasoning, one.text) for one in said] == [("a", "c"), ("", "bd")]


def test_log_probabilities_stay_with_the_text() -> None:
    def piece(text: str) -> list[Event]:
        return [TextDelta(text, {"content": [{"token": text, "logprob": -1.0}]})]

    said, _ = gather(FULL.parse(iter([piece("a <"), piece("b"), [Finish("stop")]])), 1)
    tokens = [entry["token"] for part in said[0].logprobs for entry in part["content"]]
    assert (said[0].text, tokens) == ("a <b", ["a <", "b"])


def test_waiting_is_passed_on() -> None:
    assert next(FULL.parse(iter([[]]))) == []


def test_arguments_are_json_to_the_last_bracket() -> None:
    arguments = json.dumps({"text": 'a "quoted" \\ {', "list": [[], {}]})
    assert json.loads(read(FULL, call("f", arguments), 7).calls[0].arguments)["list"] == [[], {}]


def test_a_call_that_a_stop_text_cut_is_not_to_be_made() -> None:
    assert read(FULL, call("f", '{"a": 1}')[:-25]).reason == "stop"


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize(
    ("reading", "text"),
    [
        (FULL, "Well: <tool_call>f</tool_call> yes"),
        (OutputParser(None, False, BARE), '{"name": 7} yes'),
    ],
)
def test_what_becomes_no_call_stays_text(
    reading: OutputParser, text: str, seed: int | None
) -> None:
    choices = read(reading, text, seed)
    assert (choices.text.replace(" ", ""), choices.calls) == (text.replace(" ", ""), [])


def test_log_probabilities_of_reasoning_are_not_those_of_the_answer() -> None:
    pieces = ["<think>", "a", "</think>", "b"]
    events: list[list[Event]] = [
        [TextDelta(text, {"content": [{"token": text}]})] for text in pieces
    ]
    said, _ = gather(FULL.parse(iter([*events, [Finish("stop")]])), 1)
    assert said[0].logprobs == [{"content": [{"token": "b"}]}]
