from __future__ import annotations

import pytest

from vllm_obtain.models.naming import ModelLocation, clean, names


def place(path: str) -> ModelLocation:
    parts = tuple(path.split("/"))
    is_file = path.lower().endswith(".gguf")
    return ModelLocation(parts, parts[-1][:-5] if is_file else parts[-1], is_file)


@pytest.mark.parametrize(
    "expected",
    [
        {"tiny.gguf": "tiny"},
        {"qwen-0.5b": "qwen-0.5b"},
        {"qwen-0.5b/m.gguf": "qwen-0.5b"},
        {"qwen-0.5b/qwen/Qwen2___5-0___5B-Instruct": "qwen-0.5b"},
        {"qwen-0.5b/models/qwen/Qwen2___5-0___5B-Instruct": "qwen-0.5b"},
        {"big/a.gguf": "big/a", "big/b.gguf": "big/b"},
        {"big/x/a.gguf": "big/a", "big/y/z": "big/z"},
        {"big/x/a.gguf": "big/x/a", "big/y/a.gguf": "big/y/a"},
        {"big/a.gguf": "big/a", "big/y/a.gguf": "big/y/a"},
        {"big/x/v/a": "big/x/v/a", "big/y/v/a": "big/y/v/a", "big/b": "big/b"},
        {"foo.gguf": "foo", "foo/m.gguf": "foo/m"},
        {"foo": "foo", "foo/m.gguf": "foo/m"},
        {"foo": "foo", "foo/foo.gguf": "foo/foo"},
        {"foo.gguf": "foo.gguf", "foo.GGUF": "foo.GGUF"},
        {"models--Qwen--Qwen3-8B/snapshots/1f": "Qwen/Qwen3-8B"},
        {"hub/models--Qwen--Qwen3-8B/snapshots/1f": "Qwen/Qwen3-8B"},
        {"models--gpt2/snapshots/1f": "gpt2"},
        {"models--a--b/snapshots/1f/m.gguf": "a/b"},
        {
            "models--a--b/snapshots/1f/m-Q4.gguf": "a/b/m-Q4",
            "models--a--b/snapshots/1f/m-Q8.gguf": "a/b/m-Q8",
        },
        {"models--a--b/snapshots/1f": "a/b", "a/b": "a"},
        {
            "models--a--b/snapshots/1f": "models--a--b/snapshots/1f",
            "hub/models--a--b/snapshots/1f": "hub/models--a--b/snapshots/1f",
        },
        {"models--a--b/m.gguf": "models--a--b"},
    ],
)
def test_names(expected: dict[str, str]) -> None:
    found = names([place(path) for path in expected])
    assert dict(zip(expected, found, strict=True)) == expected


def test_a_model_in_models_dir_itself_has_its_name() -> None:
    assert names([ModelLocation((), "my-model", False)]) == ["my-model"]


def test_names_have_one_spelling() -> None:
    assert clean("cafe\u0301") == clean("caf\u00e9") == "caf\u00e9"
    assert clean("a\udcff\ud800") == "a??"
