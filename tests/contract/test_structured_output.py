"""Answers of a form: what was asked for is what comes, on every engine, streamed or not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.contract.schemas import SCHEMAS, sample_cases, validate
from tests.contract.target import CHAT, TEXT, Target

ASK = "Tell me about a small town."
# A tenth of what `python -m bench.structured_output` tries; the seed says which.
SEED = 20261122


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


@pytest.mark.parametrize(("number", "seed"), sample_cases(SEED, 10))
def test_an_answer_keeps_to_its_schema(number: int, seed: int, target: Target) -> None:
    schema = SCHEMAS[number]
    body = {"temperature": 1.0, "seed": seed, "max_tokens": 500, **response_format(schema)}
    answer = target.chat(ASK, stream=seed % 2 == 1, **body)
    assert answer.finish == "stop", answer.text
    validate(json.loads(answer.text), schema)


def test_streamed_and_plain_are_the_same(target: Target) -> None:
    body = {**response_format(SCHEMAS[3]), "max_tokens": 100}
    plain, streamed = (target.chat(ASK, stream=stream, **body) for stream in (False, True))
    assert (plain.text, plain.finish) == (streamed.text, streamed.finish)
    assert plain.finish == "stop"


def test_an_answer_that_is_cut_off_says_so(target: Target) -> None:
    answer = target.chat(ASK, **response_format(SCHEMAS[9]), max_tokens=5)
    assert answer.finish == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.text)


def test_any_object(target: Target) -> None:
    brief = {"max_tokens": 200, "frequency_penalty": 1.0}
    answer = target.chat(ASK, response_format={"type": "json_object"}, **brief)
    assert answer.text.startswith("{")
    if answer.finish == "stop":
        assert isinstance(json.loads(answer.text), dict)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("asked", "pattern"),
    [
        ({"guided_regex": r"(yes|no), [a-z]{3,6}!"}, r"(yes|no), [a-z]{3,6}!"),
        ({"guided_choice": ["alpha", "beta/γ"]}, "alpha|beta/γ"),
        ({"guided_grammar": 'root ::= "<" [0-9] [0-9] ">"'}, r"<\d\d>"),
        ({"guided_json": '{"const": "x"}'}, '"x"'),
        ({"structured_outputs": {"regex": "[0-9]{4}"}}, r"\d{4}"),
        ({"structured_outputs": {"json": {"enum": [7]}}}, "7"),
    ],
    ids=str,
)
def test_other_forms(path: str, asked: dict[str, Any], pattern: str, target: Target) -> None:
    answer = target.ask(path, {**asked, "temperature": 0, "max_tokens": 30})
    assert answer.finish == "stop"
    assert re.fullmatch(pattern, answer.text), answer.text


def test_choices_each_keep_to_the_form(target: Target) -> None:
    body = {
        "messages": [{"role": "user", "content": ASK}],
        "n": 3,
        "temperature": 1.0,
        "seed": 4,
        "max_tokens": 60,
        **response_format(SCHEMAS[2]),
    }
    for choice in target.service.json(CHAT, {"model": "smollm2-135m", **body})["choices"]:
        validate(json.loads(choice["message"]["content"]), SCHEMAS[2])


def test_an_enumeration_of_20000_holds_nobody_up(target: Target) -> None:
    many = {"enum": [f"value{number}" for number in range(20_000)]}
    answer = target.chat(ASK, **response_format(many), max_tokens=20)
    assert json.loads(answer.text) in many["enum"]
