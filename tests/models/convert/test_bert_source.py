"""Folders with a BERT, made into GGUF files; how true their vectors are is tested over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from tests.models.convert.bert_models import LAYERS, POSITIONS, WORDS, SmallBert
from tests.models.gguf_files import write_gguf
from tests.service import ROOT
from vllm_obtain.models import Model, ModelCatalog
from vllm_obtain.models import kind as model_kind
from vllm_obtain.models.convert import convert as conversion
from vllm_obtain.models.convert import plan
from vllm_obtain.models.convert.cleanup import sweep
from vllm_obtain.models.convert.convert import convert
from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.gguf.header import read_header


def scan_model(folder: Path) -> Model:
    (model,) = ModelCatalog(folder.parent).models()
    return model


def convert_folder(folder: Path) -> Path:
    """The GGUF file that becomes of a folder."""
    convert(folder, "gguf", lambda _: None)
    return plan(scan_model(folder), "gguf").file


def test_the_file_says_what_the_folder_says(tmp_path: Path) -> None:
    file = convert_folder(SmallBert().write(tmp_path / "small"))
    header = read_header(file)
    assert (header.architecture, header.pooling) == ("bert", model_kind.CLS)
    assert (header.context_length, header.block_count) == (POSITIONS, LAYERS)
    assert header.vocab_size == len(WORDS)
    fields = GGUFReader(file).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens[2:9] == ["[CLS]", "[SEP]", "[MASK]", "[unused0]", "▁cat", "s", "▁sun"]
    assert fields["tokenizer.ggml.cls_token_id"].contents() == WORDS.index("[CLS]")
    assert fields["tokenizer.ggml.seperator_token_id"].contents() == WORDS.index("[SEP]")
    assert fields["bert.attention.causal"].contents() is False


@pytest.mark.parametrize("small", [SmallBert(), SmallBert(prefix="bert.", halves=True)])
def test_no_number_changes_but_by_rounding(small: SmallBert, tmp_path: Path) -> None:
    tensors = {
        tensor.name: tensor
        for tensor in GGUFReader(convert_folder(small.write(tmp_path / "small"))).tensors
    }
    names = {
        "embeddings.word_embeddings.weight": "token_embd.weight",
        "embeddings.position_embeddings.weight": "position_embd.weight",
        "encoder.layer.1.attention.self.key.weight": "blk.1.attn_k.weight",
        "encoder.layer.0.attention.output.LayerNorm.bias": "blk.0.attn_output_norm.bias",
        "encoder.layer.0.output.LayerNorm.weight": "blk.0.layer_output_norm.weight",
        "encoder.layer.0.intermediate.dense.weight": "blk.0.ffn_up.weight",
        "encoder.layer.1.output.dense.bias": "blk.1.ffn_down.bias",
    }
    for old, new in names.items():
        np.testing.assert_allclose(tensors[new].data, small.values[old], atol=2e-4)
    assert tensors["position_embd.weight"].data.dtype == np.float32
    assert len(tensors) == 5 + 16 * LAYERS
    assert not any("pooler" in name for name in tensors)


@pytest.mark.parametrize(
    ("small", "why"),
    [
        (SmallBert(config={"architectures": ["XLMRobertaModel"]}), "class BertModel"),
        (SmallBert(config={"hidden_act": "relu"}), "hidden_act relu"),
        (SmallBert(config={"num_hidden_layers": "two"}), "num_hidden_layers"),
        (SmallBert(pooling={"pooling_mode_max_tokens": True}), "not supported: pooling_mode_max"),
        (SmallBert(modules=["Transformer", "Pooling", "Dense"]), r"module \S*Dense"),
        (SmallBert(tokenizer={"normalizer": {"lowercase": False}}), "uncased WordPiece"),
        (SmallBert(tokenizer={"model": {"type": "BPE", "vocab": {}}}), "WordPiece"),
    ],
)
def test_unsupported_bert_variants_are_rejected(small: SmallBert, why: str, tmp_path: Path) -> None:
    model = scan_model(small.write(tmp_path / "small"))
    assert model.kind == "embedding"
    problem = plan(model, "gguf").problem
    assert problem is not None
    with pytest.raises(ConversionError, match=why):
        convert(model.path, "gguf", lambda _: None)


def test_a_gguf_file_cannot_be_converted_to_gguf(tmp_path: Path) -> None:
    model = scan_model(write_gguf(tmp_path / "a.gguf"))
    assert "Only models of the class" in (plan(model, "gguf").problem or "")


def test_an_incomplete_model_leaves_no_conversion(tmp_path: Path) -> None:
    folder = SmallBert(without="layer.1.output.dense").write(tmp_path / "small")
    with pytest.raises(ConversionError, match=r"has no tensor for blk\.1\.ffn_down"):
        convert(folder, "gguf", lambda _: None)
    assert not [each for each in (folder / ".converted").iterdir() if each.is_dir()]


def test_a_conversion_is_reused_and_is_not_listed_as_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SmallBert().write(tmp_path / "small")
    command = [sys.executable, "-m", "vllm_obtain.models.convert", "--to", "gguf", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    todo = plan(scan_model(folder), "gguf")
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "stage": "done",
        "path": str(todo.folder),
    }
    assert todo.done and todo.file.is_file()
    monkeypatch.setattr(conversion, "write_gguf", None)
    assert convert(folder, "gguf", lambda _: None) == todo.folder
    assert [model.name for model in ModelCatalog(tmp_path).models()] == ["small"]
    assert sweep(tmp_path) == []
    (folder / "config.json").unlink()
    assert sweep(tmp_path) == [todo.folder]
