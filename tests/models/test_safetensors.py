from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest

from tests.models.safetensors_files import CONFIG, write_folder, write_weights
from vllm_obtain.models.model import Model
from vllm_obtain.models.scan import scan


def scan_one(models_dir: Path) -> Model:
    (model,) = scan(models_dir)
    return model


def test_a_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", shards=2)
    (folder / "pytorch_model.bin").write_bytes(bytes(1000))
    model = scan_one(tmp_path)
    used = [file for file in folder.iterdir() if file.suffix != ".bin"]
    assert (model.name, model.path, model.format) == ("m", folder, "safetensors")
    assert model.size_bytes == sum(file.stat().st_size for file in used)
    assert (model.architecture, model.context_length) == ("LlamaForCausalLM", 512)
    assert (model.header, model.problem) == (None, None)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.CKPT"])
def test_pickled_weights_are_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / name).write_bytes(pickle.dumps(1))
    model = scan_one(tmp_path)
    assert (model.name, model.format) == ("m", "safetensors")
    assert model.problem and f"{name} is a pickle" in model.problem and "GGUF" in model.problem


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
def test_a_pickle_under_another_name_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"w": [1.0] * 1000}))
    assert "safetensors file" in str(scan_one(tmp_path).problem) or "not a GGUF" in str(
        scan_one(tmp_path).problem
    )


def test_copies_that_the_index_does_not_name_are_not_counted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", shards=2)
    size = scan_one(tmp_path).size_bytes
    write_weights(folder / "consolidated.safetensors", 400)
    assert scan_one(tmp_path).size_bytes == size


def test_folders_inside_a_model_belong_to_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    write_folder(folder / "original")
    assert scan_one(tmp_path).name == "m"


def test_models_dir_may_be_a_model_and_hold_others(tmp_path: Path) -> None:
    write_folder(tmp_path / "models")
    write_folder(tmp_path / "models" / "other")
    assert [model.name for model in scan(tmp_path / "models")] == ["models", "other"]


@pytest.mark.parametrize(
    ("config", "architecture", "context_length"),
    [
        ({"model_type": "qwen3"}, "qwen3", None),
        ({"architectures": [], "n_positions": 1024}, None, 1024),
        ({"architectures": 7, "max_position_embeddings": "many"}, None, None),
        ({"architectures": ["A"], "text_config": {"max_position_embeddings": 9}}, "A", 9),
        ({"architectures": ["A"], "time_step_limit": [0, float("inf")]}, "A", None),
    ],
)
def test_configurations(
    tmp_path: Path, config: object, architecture: str | None, context_length: int | None
) -> None:
    write_folder(tmp_path / "m", config=config)
    model = scan_one(tmp_path)
    assert model.problem is None
    assert (model.architecture, model.context_length) == (architecture, context_length)


def test_missing_configuration(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", config=None)
    assert scan_one(tmp_path).problem == "config.json is missing"


def test_an_adapter(tmp_path: Path) -> None:
    write_weights(tmp_path / "m" / "adapter_model.safetensors")
    (tmp_path / "m" / "adapter_config.json").write_text("{}")
    assert scan_one(tmp_path).problem == (
        "it is a LoRA adapter, not a model; name it in MODEL_SETTINGS as lora of its base"
    )


@pytest.mark.parametrize("config", ["", "{", "[]", "[" * 100_000, "\xff"])
def test_damaged_configuration(tmp_path: Path, config: str) -> None:
    (write_folder(tmp_path / "m") / "config.json").write_bytes(config.encode("latin-1"))
    assert (scan_one(tmp_path).problem or "").startswith("config.json ")


def test_missing_shard(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    expected = "weight files are missing, such as model-00002-of-00003.safetensors"
    assert scan_one(tmp_path).problem == expected
    (folder / "model.safetensors.index.json").unlink()
    assert scan_one(tmp_path).problem == expected


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ("{", "model.safetensors.index.json cannot be read"),
        ('{"weight_map": 7}', "model.safetensors.index.json cannot be read"),
        ('{"weight_map": {"w": "../../secret"}}', "weight files are missing, such as ../../secret"),
        (
            '{"weight_map": {"w": "model-00001-of-99999.safetensors"}}',
            "weight files are missing, such as model-00001-of-99999.safetensors",
        ),
    ],
)
def test_damaged_index(tmp_path: Path, index: str, problem: str) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(index)
    assert (scan_one(tmp_path).problem or "").startswith(problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "truncated or not"),
        (b"version https://git-lfs.github.com/spec/v1\n", "truncated or not"),
        (struct.pack("<Q", 2**64 - 1) + bytes(99), "truncated or not"),
        (struct.pack("<Q", 3) + b"{{{", "cannot be read"),
        (struct.pack("<Q", 9) + b'{"a":"b"}', "cannot be read"),
        (struct.pack("<Q", 60_000) + b'{"a":' * 12_000, "cannot be read"),
    ],
)
def test_damaged_weights(tmp_path: Path, content: bytes, problem: str) -> None:
    (write_folder(tmp_path / "m") / "model.safetensors").write_bytes(content)
    assert problem in (scan_one(tmp_path).problem or "")


def test_truncated_weights(tmp_path: Path) -> None:
    weights = write_folder(tmp_path / "m") / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    expected = f"truncated: it has {len(content) - 1} of {len(content)} bytes"
    assert expected in (scan_one(tmp_path).problem or "")


def test_a_repaired_folder_is_read_again(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", config=None)
    broken = scan(tmp_path)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert scan(tmp_path, broken)[0].problem is None
    shutil.rmtree(folder)
    assert scan(tmp_path, broken) == []
