"""Which models embed, told by their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models.gguf_files import write_gguf
from tests.models.safetensors_files import write_folder
from vllm_obtain.models import Model, ModelCatalog


def scan_one(folder: Path) -> Model:
    (model,) = ModelCatalog(folder).models()
    return model


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [
        ({}, "chat"),
        ({"general.architecture": "bert"}, "embedding"),
        ({"general.architecture": "nomic-bert"}, "embedding"),
        ({"llama.pooling_type": 3}, "embedding"),
        ({"llama.pooling_type": 0}, "chat"),
    ],
)
def test_gguf_files(metadata: dict[str, Any], kind: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", metadata)
    assert scan_one(tmp_path).kind == kind


def test_a_cross_encoder_is_refused_with_what_to_do_instead(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", {"general.architecture": "bert", "bert.pooling_type": 4})
    assert "use an embedding model for" in (scan_one(tmp_path).problem or "")


@pytest.mark.parametrize(
    ("architecture", "beside", "kind"),
    [
        ("LlamaForCausalLM", {}, "chat"),
        ("BertModel", {}, "embedding"),
        ("XLMRobertaModel", {}, "embedding"),
        ("Qwen3ForCausalLM", {"modules.json": []}, "embedding"),
    ],
)
def test_folders(architecture: str, beside: dict[str, Any], kind: str, tmp_path: Path) -> None:
    config = {"architectures": [architecture], "max_position_embeddings": 512}
    folder = write_folder(tmp_path / "a", config=config)
    for name, content in beside.items():
        (folder / name).write_text(json.dumps(content))
    assert scan_one(tmp_path).kind == kind


def test_the_shorter_of_two_contexts_counts(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", config={"architectures": ["BertModel"], "n_positions": 9})
    assert scan_one(tmp_path).context_length == 9
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    assert scan_one(tmp_path).context_length == 7
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": null}')
    assert scan_one(tmp_path).context_length == 9
    (folder / "sentence_bert_config.json").write_text("[")
    assert "sentence_bert_config.json cannot be read" in (scan_one(tmp_path).problem or "")
