"""What can be converted, where to, and what it takes; all from the header."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType

from tests.models.convert.models import WORDS, Small
from tests.models.gguf_files import write_gguf
from tests.models.safetensors_files import write_folder
from vllm_obtain.models import Model
from vllm_obtain.models.convert import Target, plan
from vllm_obtain.models.convert.convert import convert
from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.gguf_source import open_source
from vllm_obtain.models.convert.plan import short_stem
from vllm_obtain.models.convert.progress import ConversionMeter
from vllm_obtain.models.convert.tokenizer_json import tokenizer
from vllm_obtain.models.convert.vocabulary import read_vocabulary
from vllm_obtain.models.progress import Progress
from vllm_obtain.models.scan import read_file, scan


def model_at(path: Path) -> Model:
    found = read_file(path)
    assert found is not None
    return found


@pytest.mark.parametrize("target", ["mlx", "hf"])
def test_a_plan_names_the_folder_and_the_room_it_takes(target: Target, tmp_path: Path) -> None:
    path = Small(type=GGMLQuantizationType.Q4_0).write(tmp_path / "some.gguf")
    model = model_at(path)
    found = plan(model, target)
    assert found.problem is None and not found.done
    assert found.folder == tmp_path / ".converted" / f"some-{target}-{model.revision}"
    assert found.command[1:] == ["-m", "vllm_obtain.models.convert", "--to", target, str(path)]
    folder = convert(path, target, lambda _: None)
    assert folder == found.folder and found.done
    taken = sum(file.stat().st_size for file in folder.iterdir())
    assert taken <= found.bytes_needed <= taken + 2**26


def test_a_scan_gives_the_same_plan_and_does_not_see_the_folder(tmp_path: Path) -> None:
    path = Small().write(tmp_path / "a" / "some.gguf")
    convert(path, "hf", lambda _: None)
    (scanned,) = scan(tmp_path)
    assert plan(scanned, "hf").done
    assert plan(scanned, "hf").folder == plan(model_at(path), "hf").folder


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys, vllm_obtain.models.convert as c;"
        "print(sorted({'numpy', 'gguf', 'tokenizers'} & set(sys.modules)), c.plan.__name__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["[]", "plan"]


UNFIT: list[tuple[Small, str]] = [
    (Small("gemma3"), "family gemma3 cannot be converted, only llama, qwen2, qwen3. Use llama.cpp"),
    (Small(metadata={"llama.expert_count": 8}), "Mixture-of-experts"),
    (Small(metadata={"llama.rope.dimension_count": 32}), "partial rotary embeddings"),
    (Small(metadata={"llama.attention.value_length": 32}), "keys and values of different width"),
    (Small(metadata={"llama.rope.scaling.type": "longrope"}), "RoPE scaling longrope"),
    (Small(metadata={"llama.embedding_length": 128}), "has the shape"),
    (Small(metadata={"llama.block_count": 2**31 - 1}), "inconsistent sizes"),
    (Small(metadata={"llama.attention.head_count": 0}), "inconsistent sizes"),
    (Small(metadata={"llama.rope.freq_base": -1.0}), "no valid llama.rope.freq_base"),
    (Small(metadata={"llama.block_count": 3}), r"has no tensor blk\.2\."),
    (Small(metadata={"llama.feed_forward_length": None}), "no valid llama.feed_forward_length"),
    (Small(without=("blk.1.attn_v.weight",)), r"has no tensor blk\.1\.attn_v\.weight"),
    (Small(more={"blk.0.extra.weight": (2,)}), r"blk\.0\.extra\.weight is not supported"),
    (Small(more={"rope_freqs.weight": (32,)}), "do not match Llama 3.1"),
    (Small(words={**WORDS, "tokenizer.ggml.model": "t5"}), "type t5"),
    (Small(words={**WORDS, "tokenizer.ggml.pre": "bloom"}), "pre-tokenizer bloom"),
]


@pytest.mark.parametrize(("small", "why"), UNFIT, ids=[why for _, why in UNFIT])
def test_unsupported_models_are_rejected_with_the_reason(
    small: Small, why: str, tmp_path: Path
) -> None:
    found = plan(model_at(small.write(tmp_path / "a.gguf")), "mlx")
    assert found.problem is not None and found.problem.endswith(".")
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(found.problem)


def test_an_unknown_ggml_type_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    path = Small().write(tmp_path / "a.gguf")
    monkeypatch.setattr("vllm_obtain.models.convert.tensor_jobs.READABLE", frozenset({0}))
    problem = plan(model_at(path), "hf").problem
    assert problem == (
        "token_embd.weight has the ggml type 1, which cannot be converted. Use llama.cpp."
    )


def test_other_formats_and_damaged_models_are_rejected(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    (folder,) = scan(tmp_path)
    assert "not a GGUF model" in (plan(folder, "mlx").problem or "")
    damaged = dataclasses.replace(folder, format="gguf", problem="it is truncated")
    assert plan(damaged, "mlx").problem == "folder cannot be converted: it is truncated."
    tiny = model_at(write_gguf(tmp_path / "tiny.gguf"))
    assert "no valid token_embd.weight" in (plan(tiny, "mlx").problem or "")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    model = model_at(Small().write(tmp_path / "a.gguf"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else name)
    problem = plan(model, "mlx").problem or ""
    assert "requires gguf. Install them: pip install 'vllm-obtain[convert]'" in problem


def test_damaged_headers_only_ever_give_a_problem(tmp_path: Path) -> None:
    path = Small("llama", GGMLQuantizationType.Q8_0).write(tmp_path / "a.gguf")
    model, good, draw = model_at(path), path.read_bytes(), random.Random(5)  # noqa: S311 - the same each time
    header = good.index(b"blk.1.ffn_down.weight") + 60
    outcomes = set()
    for _ in range(400):
        damaged = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(24, header)] = draw.choice((0, 1, 127, 255, draw.randrange(256)))
        path.write_bytes(damaged)
        outcomes.add(plan(model, "mlx").problem is None)
        try:
            with open_source(path) as source:
                tokenizer(read_vocabulary(source))
        except ConversionError:
            pass
    assert outcomes == {True, False}


def test_a_split_model_is_one(tmp_path: Path) -> None:
    whole = Small("qwen2").write(tmp_path / "whole" / "a.gguf")
    folder = convert(whole, "hf", lambda _: None)
    first, second = (tmp_path / "parts" / f"a-0000{n}-of-00002.gguf" for n in (1, 2))
    names = list(Small("qwen2").shapes())
    Small("qwen2", without=tuple(names[9:])).write(first)
    _write_rest(whole, second, set(names[9:]))
    parts = convert(first, "hf", lambda _: None)
    assert (parts / "config.json").read_text() == (folder / "config.json").read_text()
    assert (parts / "model.safetensors").stat().st_size == (
        folder / "model.safetensors"
    ).stat().st_size
    second.unlink()
    assert "part 2 of 2 is missing" in (plan(model_at(first), "hf").problem or "")


def _write_rest(whole: Path, part: Path, names: set[str]) -> None:
    from gguf import GGUFReader

    writer = GGUFWriter(part, "qwen2")
    for tensor in GGUFReader(whole).tensors:
        if tensor.name in names:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_long_names_are_cut_and_stay_different() -> None:
    one, two = (short_stem(Path("é" * 120 + end + ".gguf")) for end in "ab")
    assert one != two and len(one.encode()) < 160
    assert short_stem(Path("x/plain.name.gguf")) == "plain.name"


def test_progress_is_reported_now_and_then() -> None:
    reports: list[Progress] = []
    now = 0.0
    meter = ConversionMeter(100, reports.append, lambda: now)
    meter.stage("weights")
    for _ in range(10):
        meter.add(10)
        now += 0.0625
    assert [each.done for each in reports] == [0, 50, 90]
