"""The chat template and special tokens that are read from a model's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models.gguf_files import write_gguf
from tests.models.safetensors_files import write_folder
from vllm_obtain.models import ModelCatalog
from vllm_obtain.models.chat_tokens import ChatTokens, chat_tokens

TOKENS = ["<unk>", "<s>", "</s>", "a"]


def tokens_of(folder: Path) -> ChatTokens:
    model = ModelCatalog(folder).find("m")
    return chat_tokens(model.path, model.format, model.revision)


def of_gguf(folder: Path, **metadata: Any) -> ChatTokens:
    variables = {name.replace("__", "."): value for name, value in metadata.items()}
    write_gguf(folder / "m.gguf", {"tokenizer.ggml.tokens": TOKENS, **variables})
    return tokens_of(folder)


def test_a_gguf_file(tmp_path: Path) -> None:
    found = of_gguf(
        tmp_path,
        tokenizer__chat_template="T",
        tokenizer__ggml__bos_token_id=1,
        tokenizer__ggml__eos_token_id=2,
        tokenizer__ggml__add_bos_token=True,
    )
    assert found == ChatTokens("T", "<s>", "</s>", True)


@pytest.mark.parametrize(
    ("metadata", "adds"),
    [
        ({"tokenizer__ggml__model": "llama"}, True),
        ({"tokenizer__ggml__model": "gpt2"}, False),
        ({"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__pre": "llama-bpe"}, True),
        ({"tokenizer__ggml__model": "llama", "tokenizer__ggml__add_bos_token": False}, False),
    ],
)
def test_a_gguf_file_that_does_not_say(
    tmp_path: Path, metadata: dict[str, Any], adds: bool
) -> None:
    assert of_gguf(tmp_path, tokenizer__ggml__bos_token_id=1, **metadata).adds_bos is adds


def test_tokens_that_engines_do_not_show(tmp_path: Path) -> None:
    found = of_gguf(tmp_path, tokenizer__ggml__token_type=[2, 3, 3, 1])
    assert found.control == {"<s>", "</s>"}


def test_a_token_that_is_not_there(tmp_path: Path) -> None:
    found = of_gguf(tmp_path, tokenizer__ggml__bos_token_id=9, tokenizer__ggml__add_bos_token=True)
    assert (found.bos, found.adds_bos) == ("", False)


FOLDERS: list[tuple[dict[str, Any], ChatTokens]] = [
    (
        {"tokenizer_config.json": {"chat_template": "T", "bos_token": "<s>", "eos_token": "</s>"}},
        ChatTokens("T", "<s>", "</s>"),
    ),
    (
        {"tokenizer_config.json": {"chat_template": "T", "bos_token": {"content": "<s>"}}},
        ChatTokens("T", "<s>"),
    ),
    (
        {
            "tokenizer_config.json": {
                "chat_template": [
                    {"name": "default", "template": "D"},
                    {"name": "tool_use", "template": "U"},
                ]
            }
        },
        ChatTokens("U"),
    ),
    (
        {
            "tokenizer_config.json": {
                "added_tokens_decoder": {
                    "1": {"content": "<s>", "special": True},
                    "2": {"content": "<tool_call>", "special": False},
                }
            }
        },
        ChatTokens(control=frozenset({"<s>"})),
    ),
    (
        {"chat_template.jinja": "J", "tokenizer_config.json": {"chat_template": "T"}},
        ChatTokens("J"),
    ),
    ({"chat_template.json": {"chat_template": "O"}}, ChatTokens("O")),
    ({"tokenizer_config.json": {"chat_template": " "}}, ChatTokens()),
    ({"tokenizer_config.json": "not json"}, ChatTokens()),
    ({}, ChatTokens()),
]


@pytest.mark.parametrize(("files", "expected"), FOLDERS)
def test_a_folder(tmp_path: Path, files: dict[str, Any], expected: ChatTokens) -> None:
    folder = tmp_path / "m"
    write_folder(folder)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
    assert tokens_of(tmp_path) == expected
