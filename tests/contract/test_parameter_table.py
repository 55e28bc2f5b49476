"""The capability tables: no parameter is dropped silently, none is claimed that does not exist."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.target import CHAT, TEXT, Target
from tests.fleet import engine
from vllm_obtain.engines.registry import BUILT_IN
from vllm_obtain.gateway.inference.context import ADVISORY
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest, InferenceFields

# A value for every parameter that asks something of the engine.
SHARED: dict[str, Any] = {
    "max_tokens": 1,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "n": 2,
    "stop": ["x"],
    "seed": 1,
    "logit_bias": {"5": 1},
    "min_tokens": 1,
    "ignore_eos": True,
}
IN_CHAT: dict[str, Any] = SHARED | {
    "max_completion_tokens": 1,
    "logprobs": True,
    "top_logprobs": 2,
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "verbosity": "low",
    "prediction": {"type": "content", "content": "x"},
    "modalities": ["audio"],
    "audio": {"voice": "x", "format": "mp3"},
    "web_search_options": {"search_context_size": "low"},
    "store": True,
    "service_tier": "flex",
}
IN_TEXT: dict[str, Any] = SHARED | {"logprobs": 1, "suffix": "x", "best_of": 2}
CASES = [(CHAT, ChatRequest, IN_CHAT), (TEXT, CompletionRequest, IN_TEXT)]


@pytest.mark.parametrize(("path", "request_type", "values"), CASES, ids=["chat", "text"])
def test_every_parameter_works_or_is_refused_by_name(
    path: str, request_type: type[InferenceFields], values: dict[str, Any], target: Target
) -> None:
    ours = InferenceFields.LABELS | InferenceFields.OURS
    asked = set(request_type.__struct_fields__) - ours
    assert set(values) == asked, "each needs a value to be tried with"
    refused = {n: v for n, v in values.items() if n not in target.adapter.parameters}
    for name, value in refused.items():
        if name in ADVISORY:
            assert target.ignored(path, {name: value, "max_tokens": 1}) == name
        elif value is not None:
            error = target.refused(path, {name: value})
            assert (error["code"], error["param"]) == ("unsupported_parameter", name)
    # Those of the table are tried one by one by the other tests; here, that they get along. (Of
    # several choices each would be as long.)
    together = {n: v for n, v in values.items() if n not in refused and n != "n"}
    answer = target.ask(path, together)
    assert answer.usage is not None and answer.usage["completion_tokens"] == 1


def test_the_tables_name_parameters_that_exist() -> None:
    known = {*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__}
    for name in BUILT_IN:
        assert engine(name).parameters <= known - InferenceFields.LABELS - InferenceFields.OURS
