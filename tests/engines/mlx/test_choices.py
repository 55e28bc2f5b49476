"""Several choices of one request, and answers held to a grammar, asked of a real server."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.mlx.client import GREEDY, Answer, Server, run_server
from tests.engines.mlx.model import write_model

pytestmark = pytest.mark.engine

ASK = "Say something."
POINT = {
    "type": "object",
    "properties": {
        "x": {"type": "integer", "minimum": 10, "maximum": 12},
        "colour": {"enum": ["red", "blue"]},
    },
    "required": ["x", "colour"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write_model(tmp_path_factory.mktemp("mlx") / "tiny")
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as runtime,
        run_server(folder, Path(runtime), slots=8, context=2400, prefill_chunk=64) as running,
    ):
        yield running


def form(schema: dict[str, Any]) -> dict[str, Any]:
    spaces = {"whitespace_flexible": True, "whitespace_pattern": r" {0,2}"}
    return {"grammar": f"start: %json {json.dumps(schema | {'x-guidance': spaces})}"}


def texts(answer: Answer, choices: int) -> list[str]:
    assert answer.status == 200 and answer.done, answer.error
    told = [""] * choices
    for choice in answer.choices:
        told[choice["index"]] += choice["text"]
    return told


# --- Choices --------------------------------------------------------------------------------------


def test_choices_share_the_prefill_and_sample_differently(server: Server) -> None:
    before = server.metrics["prompt_tokens"]
    body = {"max_tokens": 12, "seed": 5, "temperature": 1.0}
    answer = server.complete("Several answers to one prompt, please.", n=3, **body)
    three = texts(answer, 3)
    assert len(set(three)) == 3
    assert server.metrics["prompt_tokens"] - before == 37
    assert answer.usage["prompt_tokens"] == 38 and answer.usage["completion_tokens"] == 36
    assert [c["finish_reason"] for c in answer.choices if c["finish_reason"]] == ["length"] * 3
    again = server.complete("Several answers to one prompt, please.", n=2, **body)
    assert texts(again, 2) == three[:2]
    alone = server.complete("Several answers to one prompt, please.", **body)
    assert alone.text == three[0]


def test_choices_end_independently_and_greedy_ones_are_equal(server: Server) -> None:
    plain = server.complete("ends", max_tokens=20, **GREEDY).text
    alike = texts(server.complete("ends", max_tokens=20, n=4, **GREEDY), 4)
    assert alike == [plain] * 4
    answer = server.complete("ends", max_tokens=40, n=4, seed=3, stop=["a"], temperature=1.0)
    told = texts(answer, 4)
    assert not any("a" in text for text in told)
    lengths = {len(text) for text in told}
    assert len(lengths) > 1 and answer.usage["completion_tokens"] >= sum(map(len, told))


def test_more_choices_than_slots_are_rejected(server: Server) -> None:
    answer = server.complete("x", max_tokens=1, n=9)
    assert answer.status == 400 and answer.error is not None and answer.error["param"] == "n"


def test_a_disconnect_ends_all_choices_of_the_request(server: Server) -> None:
    stream = server.stream("going", max_tokens=2000, n=4, logit_bias={"257": -100})
    stream.until(b'"text"')
    assert server.metrics["running"] == 4
    stream.close()
    server.until(lambda now: now["running"] == 0)


# --- Grammars -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [GREEDY, {"seed": 1, "temperature": 1.5}], ids=["greedy", "hot"])
def test_a_completion_follows_its_schema(server: Server, rules: dict[str, Any]) -> None:
    answer = server.complete(ASK, max_tokens=200, **form(POINT), **rules)
    assert answer.finish == "stop"
    value = json.loads(answer.text)
    assert 10 <= value["x"] <= 12 and value["colour"] in ("red", "blue")
    # A random model would write white space for ever if it could.
    assert len(answer.text) < 150


def test_a_completion_follows_its_grammar(server: Server) -> None:
    answer = server.complete(ASK, grammar='start: "yes" | /no{2,4}/', max_tokens=9, seed=4)
    assert answer.text == "yes" or set(answer.text[1:]) == {"o"}
    assert answer.finish == "stop"


def test_sequences_with_and_without_schema_share_a_batch(server: Server) -> None:
    plain = server.complete("beside", max_tokens=60, **GREEDY).text
    free = server.stream("beside", max_tokens=60, **GREEDY)
    answer = server.complete(ASK, n=2, max_tokens=200, seed=2, **form(POINT))
    assert all(json.loads(text)["x"] >= 10 for text in texts(answer, 2))
    assert free.read().text == plain


BAD: list[dict[str, Any]] = [
    form({"type": "object", "properties": {"x": {"type": "no such type"}}}),
    form({"type": "array", "uniqueItems": True, "items": {"type": "integer"}}),
    form({"$ref": "https://example.com/other.json"}),
    {"grammar": "start: missing"},
    {"grammar": "start: ("},
    {"grammar": {}},
]


@pytest.mark.parametrize("asked", BAD, ids=lambda asked: str(asked)[-40:])
def test_an_unsupported_grammar_is_rejected(server: Server, asked: dict[str, Any]) -> None:
    began = time.monotonic()
    answer = server.complete(ASK, max_tokens=5, **asked)
    assert answer.status == 400 and answer.error is not None
    assert answer.error["param"] == "grammar" and answer.error["message"]
    assert time.monotonic() - began < 5
