"""What an engine is told when a client and a model name some of the parameters."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_obtain.protocol.sampling_params import DEFAULTS, SamplingParams

resolve = SamplingParams.resolve


def sampling(params: SamplingParams) -> tuple[float, float, int, float]:
    return params.temperature, params.top_p, params.top_k, params.min_p


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, tuple(DEFAULTS.values())),
        ({"seed": 5, "max_tokens": 3}, tuple(DEFAULTS.values())),
        ({"temperature": 0}, (0, 1.0, 0, 0.0)),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1}, (0.5, 0.9, 5, 0.1)),
        ({"top_p": 0.9}, (1.0, 0.9, 0, 0.0)),
        ({"top_k": -1}, (1.0, 1.0, 0, 0.0)),
        ({"min_p": 0.1}, (1.0, 1.0, 0, 0.1)),
    ],
)
def test_a_request_with_one_sampling_parameter_gets_no_default_for_the_others(
    fields: dict[str, Any], expected: tuple[float, ...]
) -> None:
    assert sampling(resolve(fields)) == expected


MODEL = {"temperature": 0.6, "top_k": 20, "presence_penalty": 0.5, "max_tokens": 9}


def test_defaults_of_the_model_apply_to_a_request_that_sets_none() -> None:
    params = resolve({"seed": 5}, MODEL)
    assert sampling(params) == (0.6, 1.0, 20, 0.0)
    assert (params.presence_penalty, params.repetition_penalty, params.max_tokens) == (0.5, 1.0, 9)
    assert params.client_params == {"seed": 5}


def test_a_sampling_parameter_replaces_all_defaults_but_the_limit() -> None:
    params = resolve({"top_p": 0.5}, MODEL)
    assert sampling(params) == (1.0, 0.5, 0, 0.0)
    assert (params.presence_penalty, params.max_tokens) == (0.0, 9)


def test_a_penalty_replaces_the_defaults_of_penalties_alone() -> None:
    params = resolve({"frequency_penalty": 0.1}, MODEL)
    assert sampling(params) == (0.6, 1.0, 20, 0.0)
    assert (params.frequency_penalty, params.presence_penalty) == (0.1, 0.0)


def test_penalties_of_a_model_leave_the_usual_sampling() -> None:
    params = resolve({}, {"repetition_penalty": 1.1})
    assert sampling(params) == tuple(DEFAULTS.values())
    assert params.repetition_penalty == 1.1


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 3}, 3),
        ({"max_tokens": 3, "max_completion_tokens": 5}, 5),
    ],
)
def test_the_newer_name_of_the_token_limit_wins(fields: dict[str, Any], limit: int | None) -> None:
    assert resolve(fields).max_tokens == limit


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, (1, 1)), ({"n": 3}, (3, 3)), ({"n": 3, "temperature": 0}, (1, 3))],
)
def test_equal_completions_are_generated_once(
    fields: dict[str, Any], expected: tuple[int, int]
) -> None:
    params = resolve(fields)
    assert (params.n, params.choices) == expected


@pytest.mark.parametrize(
    ("fields", "alternatives"),
    [
        ({}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 3}, 3),
        ({"logprobs": 0}, 0),
        ({"logprobs": 1}, 1),
    ],
)
def test_log_probabilities_of_chats_and_completions(
    fields: dict[str, Any], alternatives: int | None
) -> None:
    assert resolve(fields).logprobs == alternatives


def test_one_stop_sequence_is_a_list_too() -> None:
    assert resolve({"stop": "a"}).stop == ["a"]
    assert resolve({"stop": ["a", "b"]}).stop == ["a", "b"]
    assert resolve({}).stop == []


def test_a_parameter_that_is_ignored_leaves_the_defaults_of_the_model() -> None:
    params = resolve({"temperature": 0, "min_tokens": 3, "suffix": "x"}, MODEL)
    assert params.without("suffix").client_params == {"temperature": 0, "min_tokens": 3}
    assert params.without("min_tokens").min_tokens == 0
    assert sampling(params.without("temperature")) == (0.6, 1.0, 20, 0.0)
