"""The bodies of requests for vectors and ranks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.protocol.embeddings import MAX_INPUTS, parse_embedding, parse_rerank


def inputs(given: Any) -> Any:
    return parse_embedding(json.dumps({"input": given}).encode()).inputs


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["a", [1]], ["a", [1]]),
        (["a"] * MAX_INPUTS, ["a"] * MAX_INPUTS),
        (list(range(5000)), [list(range(5000))]),
    ],
)
def test_what_may_be_embedded(given: Any, read: Any) -> None:
    assert inputs(given) == read


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ([], "input"),
        ("", "input[0]"),
        (["a", ""], "input[1]"),
        ([[1], []], "input[1]"),
        (["a", 7], "input[1]"),
        (["a"] * (MAX_INPUTS + 1), "input"),
        ([1.5], "input[0]"),
        ([[-1]], "input[0][0]"),
        (None, "input"),
    ],
)
def test_what_may_not(given: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        inputs(given)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("field", "value"), [("dimensions", 0), ("encoding_format", "binary"), ("input_type", "query")]
)
def test_other_fields(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_embedding(json.dumps({"input": "a", field: value}).encode())
    assert caught.value.param == field
    assert isinstance(caught.value, UnsupportedParameter) == (field == "input_type")


def test_documents_are_texts_or_objects() -> None:
    body = {"query": "q", "documents": ["a", {"text": "b"}]}
    request = parse_rerank(json.dumps(body).encode())
    assert request.texts == ["a", "b"] and request.return_documents and request.top_n is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["a", {"text": ""}]}, "documents[1]"),
        ({"documents": ["a"] * MAX_INPUTS}, "documents"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"max_chunks_per_doc": 2}, "max_chunks_per_doc"),
    ],
)
def test_what_cannot_be_ranked(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _ = parse_rerank(json.dumps({"query": "q", "documents": ["a"], **fields}).encode()).texts
    assert caught.value.param == param
