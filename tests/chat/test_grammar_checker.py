"""Grammars that would hang or kill whoever compiles them are refused, and nobody is hurt."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from vllm_obtain.chat import grammar, grammar_checker, sandbox
from vllm_obtain.errors import InvalidRequest

CHAIN = "\n".join(f"r{n}: r{n + 1} r{n + 1}" for n in range(5000))
CHAIN = CHAIN[:60_000].rpartition("\n")[0]
LAST = CHAIN.rpartition(" ")[2]
DEEP = f'start: r0\n{CHAIN}\n{LAST}: "a"\n'


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (grammar.of_schema({"type": "integer", "multipleOf": 9_999_991}), "too long"),
        (grammar.of_language(DEEP, "guided_grammar"), "too deeply"),
    ],
)
def test_what_would_hang_or_kill_is_refused(made: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        grammar.check(made, "guided_grammar")
    assert caught.value.code == "unsupported_schema"
    grammar.check(grammar.of_object(), "response_format")


def test_a_large_object_is_no_harm() -> None:
    properties = {f"property{n}": {"type": "string"} for n in range(300)}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    grammar.check(grammar.of_schema(schema), "response_format")


def test_a_grammar_of_the_clients_own_has_a_size() -> None:
    with pytest.raises(InvalidRequest, match="65,536 are allowed"):
        grammar.of_language('root ::= "a"\n' + "#\n" * 40_000, "guided_grammar")


@pytest.mark.parametrize("line", ["\n \n", "\t\n", "\r\n"])
def test_a_grammar_that_takes_minutes_to_convert_is_refused(line: str) -> None:
    with pytest.raises(InvalidRequest, match="too long"):
        grammar.of_language('root ::= "a"\n' + line * 15_000, "guided_grammar")


def test_a_pattern_has_a_length() -> None:
    with pytest.raises(InvalidRequest, match="16,384 are supported"):
        grammar.of_regex("(" * 200_000, "guided_regex")


def test_a_process_that_was_ended_is_started_again() -> None:
    assert grammar_checker.problem(grammar.of_choice(["a"])) == ""
    for pid in sandbox._of_process(os.getpid()).pids:
        os.kill(pid, signal.SIGKILL)
    assert grammar_checker.problem(grammar.of_choice(["b"])) == ""


def test_many_may_ask_at_once() -> None:
    made = [grammar.of_choice([f"{n}"]) for n in range(40)] + ["%llguidance {}\nstart: nobody\n"]
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(grammar_checker.problem, made))
    assert said[:-1] == [""] * 40 and "nobody" in said[-1]
