"""A model from its GGUF file to the folder that mlx-lm or vLLM loads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors import safe_open

from tests.models.convert.models import HEAD, HEADS, KV_HEADS, LAYERS, TEMPLATE, Small
from tests.service import ROOT
from vllm_obtain.download.bundled_model import EMBEDDED
from vllm_obtain.models.convert.convert import convert
from vllm_obtain.models.convert.rope import llama3_factors
from vllm_obtain.models.convert.tensor_jobs import Target
from vllm_obtain.models.progress import Progress
from vllm_obtain.models.scan import scan

pytestmark = pytest.mark.slow

FAMILIES = pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
TYPES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K".split()


def ignore_progress(_: Progress) -> None:
    pass


def convert_model(path: Path, target: Target) -> tuple[Path, dict[str, Any]]:
    folder = convert(path, target, ignore_progress)
    return folder, json.loads((folder / "config.json").read_text())


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder; BF16 as float32."""
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        raw = file.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        with safe_open(file, "numpy") as reader:  # what the package itself thinks of the file
            assert set(reader.keys()) == header.keys() - {"__metadata__"}
            assert reader.metadata()["format"] in ("mlx", "pt")
        for name, facts in header.items():
            if name != "__metadata__":
                start, end = (8 + length + at for at in facts["data_offsets"])
                found[name] = _values(raw[start:end], facts["dtype"]).reshape(facts["shape"])
    return found


def _values(raw: bytes, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, {"F16": np.float16, "U32": np.uint32}[dtype])


def original(path: Path, skip: str = "nothing") -> dict[str, np.ndarray]:
    """The numbers of a GGUF file, by llama.cpp's own reader."""
    return {
        tensor.name: dequantize(tensor.data, tensor.tensor_type)
        for tensor in GGUFReader(path).tensors
        if not re.fullmatch(skip, tensor.name)
    }


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k: `LlamaModel.permute`."""
    shape = (heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return rows.reshape(shape).swapaxes(1, 2).reshape(rows.shape)


NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hugging_face(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{kind}"
    _, layer, word = stem.split(".")
    return f"model.layers.{layer}.{NAMES[word]}.{kind}"


def check_same(
    wanted: dict[str, np.ndarray],
    found: dict[str, np.ndarray],
    llama: bool,
    heads: tuple[int, int] = (HEADS, KV_HEADS),
) -> None:
    """Each tensor, brought back to GGUF's order, is the nearest 16-bit one to the source's."""
    for name, values in wanted.items():
        ours = found[hugging_face(name)]
        if llama and ".attn_q." in name:
            ours = permute(ours, heads[0])
        if llama and ".attn_k." in name:
            ours = permute(ours, heads[1])
        step = 2**-8 if ours.dtype == np.float32 else 2**-11
        assert np.all(np.abs(ours - values) <= np.abs(values) * step + 2**-25), name


@FAMILIES
@pytest.mark.parametrize("name", ["F16", "BF16", "Q4_K"])
def test_a_hugging_face_folder_has_the_names_and_numbers(
    family: str, name: str, tmp_path: Path
) -> None:
    small = Small(family, GGMLQuantizationType[name], tied=family != "qwen2")
    path = small.write(tmp_path / "a.gguf")
    folder, config = convert_model(path, "hf")
    wanted, found = original(path), tensors(folder)
    assert {hugging_face(name) for name in wanted} == set(found)
    check_same(wanted, found, family == "llama")
    assert config["torch_dtype"] == ("float16" if name == "F16" else "bfloat16")
    assert config["tie_word_embeddings"] == small.tied
    assert "quantization" not in config


@FAMILIES
def test_the_config_says_what_the_header_says(family: str, tmp_path: Path) -> None:
    folder, config = convert_model(Small(family).write(tmp_path / "a.gguf"), "mlx")
    known = {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    assert {key: config[key] for key in known} == known
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 0]
    words = json.loads((folder / "tokenizer_config.json").read_text())
    assert words["chat_template"] == TEMPLATE


@pytest.mark.parametrize("name", TYPES)
def test_each_type_becomes_an_mlx_folder(name: str, tmp_path: Path) -> None:
    kind = GGMLQuantizationType[name]
    path = Small("llama", kind).write(tmp_path / "a.gguf")
    folder, config = convert_model(path, "mlx")
    found = tensors(folder)
    bits = config.get("quantization", {}).get("bits")
    assert bits == (3 if name == "Q2_K" else int(name[1]) if name[0] == "Q" else None)
    if bits is None:
        assert not any(key.endswith(".scales") for key in found)
        return
    for key in ("model.embed_tokens", "model.layers.1.self_attn.q_proj"):
        assert found[f"{key}.weight"].dtype == np.uint32
        assert found[f"{key}.weight"].shape[1] == 256 * bits // 32
        assert found[f"{key}.scales"].shape == found[f"{key}.biases"].shape
    assert found["model.norm.weight"].dtype == np.float16


def test_rows_of_the_affine_form_are_unpermuted_too(tmp_path: Path) -> None:
    path = Small("llama", GGMLQuantizationType.Q8_0).write(tmp_path / "a.gguf")
    found, wanted = tensors(convert_model(path, "mlx")[0]), original(path)
    for word, heads in (("q", HEADS), ("k", KV_HEADS), ("v", 0)):
        name = f"model.layers.0.self_attn.{word}_proj"
        q = found[f"{name}.weight"].view(np.uint8).astype(np.float32)
        scales = np.repeat(found[f"{name}.scales"].astype(np.float32), 32, axis=1)
        biases = np.repeat(found[f"{name}.biases"].astype(np.float32), 32, axis=1)
        values = scales * q + biases
        values = permute(values, heads) if heads else values
        np.testing.assert_array_equal(values, wanted[f"blk.0.attn_{word}.weight"])


def test_the_positions_of_llama_3_get_their_name_back(tmp_path: Path) -> None:
    freqs = np.array(llama3_factors(10000.0, HEAD, 8.0), np.float32)
    small = Small(values={"rope_freqs.weight": freqs}, more={"rope_freqs.weight": (HEAD // 2,)})
    _, config = convert_model(small.write(tmp_path / "a.gguf"), "hf")
    assert config["rope_scaling"] == {
        "type": "llama3",
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_yarn_and_linear_positions_are_kept(tmp_path: Path) -> None:
    for kind, more in (("linear", {}), ("yarn", {"original_max_position_embeddings": 128})):
        metadata = {
            "qwen2.rope.scaling.type": kind,
            "qwen2.rope.scaling.factor": 4.0,
            "qwen2.rope.scaling.original_context_length": 128,
        }
        path = Small("qwen2", metadata=metadata).write(tmp_path / f"{kind}.gguf")
        scaling = convert_model(path, "hf")[1]["rope_scaling"]
        assert scaling == {"type": kind, "rope_type": kind, "factor": 4.0, **more}


def test_large_models_are_written_in_parts(tmp_path: Path) -> None:
    path = Small("qwen3", GGMLQuantizationType.Q4_0).write(tmp_path / "a.gguf")
    whole = tensors(convert(path, "mlx", ignore_progress))
    again = tmp_path / "b" / "a.gguf"
    again.parent.mkdir()
    again.write_bytes(path.read_bytes())
    folder = convert(again, "mlx", ignore_progress, limit=300_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert set(index["weight_map"].values()) == set(files)
    parts = tensors(folder)
    assert index["weight_map"].keys() == parts.keys() == whole.keys()
    assert all(np.array_equal(parts[name], whole[name]) for name in whole)
    # Ours is the same reading of such a folder as that of any other.
    (folder.parent / "model").mkdir()
    folder.rename(tmp_path / "c")
    (found,) = (model for model in scan(tmp_path) if model.path == tmp_path / "c")
    assert found.problem is None and found.architecture == "Qwen3ForCausalLM"


@pytest.fixture
def embedded_model(tmp_path: Path) -> Path:
    """The embedded model in a folder of its own, so that nothing is written beside it."""
    path = tmp_path / "smol.gguf"
    path.symlink_to(EMBEDDED.path(ROOT / "models"))
    return path


def test_the_embedded_model_becomes_a_hugging_face_folder(embedded_model: Path) -> None:
    folder, config = convert_model(embedded_model, "hf")
    assert (config["torch_dtype"], config["rope_theta"]) == ("bfloat16", 100000.0)
    found = tensors(folder)
    assert len(found) == 272
    check_same(original(embedded_model, r"blk\.([1-9]|1\d|2[0-8])\..*"), found, True, (9, 3))


def test_the_embedded_model_becomes_an_mlx_folder(embedded_model: Path) -> None:
    reports: list[Progress] = []
    folder = convert(embedded_model, "mlx", reports.append)
    quantisation = json.loads((folder / "config.json").read_text())["quantization"]
    assert quantisation == {
        "group_size": 32,
        "bits": 4,
        "mode": "affine",
        "model.embed_tokens": {"group_size": 32, "bits": 8, "mode": "affine"},
    }
    total = 96_576_768  # bytes of its tensors
    assert reports[0] == Progress("tokenizer", total=total)
    assert reports[-1] == Progress("saving", done=total, total=total)
    assert [each.done for each in reports] == sorted(each.done for each in reports)


def test_mlx_reads_the_embedded_model_as_it_reads_the_gguf_file(embedded_model: Path) -> None:
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    theirs = mx.load(str(embedded_model))
    ours = mx.load(str(convert_model(embedded_model, "mlx")[0] / "model.safetensors"))
    for name in ("blk.7.ffn_down", "blk.29.attn_v", "blk.3.attn_output"):
        for part in ("weight", "scales", "biases"):
            mine = ours[hugging_face(f"{name}.{part}")]
            assert mx.array_equal(theirs[f"{name}.{part}"], mine).item(), (name, part)
