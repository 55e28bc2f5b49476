"""Ollama's options as fields of a request of ours, or refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.gateway.ollama.options import check_context, sampling
from vllm_obtain.gateway.ollama.request_types import ChatBody, Options
from vllm_obtain.protocol.parsing import decode


def options(**given: Any) -> Options:
    return msgspec.convert(given, Options)


def test_no_options_name_nothing() -> None:
    assert sampling(None) == sampling(options()) == {}


def test_each_option_has_its_field() -> None:
    variables = {"seed": 7, "stop": ["."], "presence_penalty": 0.5, "frequency_penalty": -0.5}
    renamed = {"num_predict": 9, "repeat_penalty": 1.1}
    found = sampling(options(**variables, **renamed))
    assert found == {**variables, "max_tokens": 9, "repetition_penalty": 1.1}


def test_who_names_one_of_the_four_gets_ollamas_defaults_for_the_rest() -> None:
    assert sampling(options(temperature=0)) == {
        "temperature": 0,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.0,
    }
    assert sampling(options(min_p=0.1, top_k=0))["temperature"] == 0.8


@pytest.mark.parametrize("endless", [-1, -2])
def test_an_endless_answer_has_no_limit(endless: int) -> None:
    assert sampling(options(num_predict=endless)) == {}


@pytest.mark.parametrize("wrong", [0, -3, 2**31])
def test_a_limit_that_is_none_is_refused(wrong: int) -> None:
    with pytest.raises(InvalidRequest, match=r"options\.num_predict") as raised:
        sampling(options(num_predict=wrong))
    assert raised.value.param == "options.num_predict"


def test_a_seed_of_minus_one_is_none() -> None:
    assert sampling(options(seed=-1)) == {}


NEUTRAL: list[dict[str, Any]] = [
    {"typical_p": 1.0},
    {"tfs_z": 1},
    {"mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1},
    {"penalize_newline": True},
    {"repeat_last_n": 64},
    {"repeat_last_n": 64, "repeat_penalty": 1.0},
    {"num_keep": 24},
    {"num_gpu": -1, "num_thread": 0, "draft_num_predict": 0},
    {"numa": False, "low_vram": False, "vocab_only": False, "use_mlock": False, "f16_kv": True},
]


@pytest.mark.parametrize("given", NEUTRAL, ids=lambda given: "+".join(given))
def test_what_asks_for_nothing_is_accepted(given: dict[str, Any]) -> None:
    assert sampling(options(**given)) in ({}, {"repetition_penalty": 1.0})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("typical_p", 0.9),
        ("tfs_z", 0.5),
        ("mirostat", 2),
        ("penalize_newline", False),
        ("num_gpu", 0),
        ("num_thread", 4),
        ("num_batch", 512),
        ("main_gpu", 0),
        ("draft_num_predict", 4),
        ("low_vram", True),
        ("use_mmap", True),
        ("use_mlock", True),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        sampling(options(**{name: value}))
    assert raised.value.param == f"options.{name}"
    assert f"'options.{name}'" in raised.value.message


def test_how_far_back_penalties_look_is_refused_when_there_is_one() -> None:
    with pytest.raises(UnsupportedParameter, match=r"options\.repeat_last_n"):
        sampling(options(repeat_penalty=1.2, repeat_last_n=32))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ('"options": {"tempreature": 1}', "options.tempreature"),
        ('"options": {"temperature": "hot"}', "options.temperature"),
        ('"options": {"top_p": 2}', "options.top_p"),
        ('"n": 2', "n"),
    ],
)
def test_what_is_wrong_is_named_as_the_client_wrote_it(given: str, named: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode(b'{"model": "m", %s}' % given.encode(), msgspec.json.Decoder(ChatBody))
    assert raised.value.param == named


def test_a_context_up_to_what_there_is_is_accepted() -> None:
    for there in (4096, 8192, None):
        check_context(options(num_ctx=4096), there)
    check_context(options(), 1024)
    check_context(None, 1024)


def test_a_larger_context_is_refused_with_the_number() -> None:
    with pytest.raises(UnsupportedParameter, match="4096 tokens") as raised:
        check_context(options(num_ctx=4097), 4096)
    assert raised.value.param == "options.num_ctx"


@pytest.mark.parametrize("name", ["num_gpu", "num_thread", "num_batch", "use_mmap", "low_vram"])
def test_load_options_can_be_ignored(name: str) -> None:
    ignored: list[str] = []
    assert (
        sampling(options(**{name: True if name.startswith(("use", "low")) else 7}), ignored) == {}
    )
    assert ignored == [f"options.{name}"]
    with pytest.raises(UnsupportedParameter):
        sampling(options(mirostat=2), ignored)
