"""What the doctor recommends on machines of every class."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.doctor.test_doctor import examine, plain_machine, report_text
from tests.engines import machines as m
from tests.models.gguf_files import write_gguf
from vllm_obtain.cli import app
from vllm_obtain.config.settings import Settings
from vllm_obtain.doctor.recommendations import ModelSuggestion, Recommendation
from vllm_obtain.download import library
from vllm_obtain.engines.detection.install_hints import Host
from vllm_obtain.engines.detection.run_probe import ProbeResult
from vllm_obtain.hardware.machine import GPU

__all__ = ["plain_machine"]  # a fixture of every test here

GIB = 2**30
OURS = library.load()
MAC = {"mlx": m.MLX_METAL, "llama_cpp": m.LLAMA_METAL}
VLLM = {"vllm": m.VLLM_CUDA, "llama_cpp": m.LLAMA_CPU}
CPU = {"llama_cpp": m.LLAMA_CPU}


@dataclass
class Case:
    """A machine, its class, and the model for reasoning that it is told to fetch."""

    host: Host
    looks: dict[str, ProbeResult]
    level: str
    reasoning: str
    usable: int


CASES = {
    "M1 of 8 cores, 16 GB": Case(m.apple("M1", 16, 8, 4), MAC, "minimum", "qwen3-8b", 11),
    "M2 Pro, 32 GB": Case(m.apple("M2 Pro", 32, 10, 6), MAC, "recommended", "qwen3-30b-a3b", 22),
    "M4 Pro, 64 GB": Case(m.apple("M4 Pro", 64, 14, 10), MAC, "recommended", "qwen3-30b-a3b", 48),
    "M3 Ultra, 96 GB": Case(
        m.apple("M3 Ultra", 96, 28, 20), MAC, "high-performance", "qwen3-30b-a3b", 72
    ),
    "8 GB card": Case(m.linux(32, 8, GPU("RTX 4060", 8 * GIB)), VLLM, "minimum", "qwen3-0.6b", 8),
    "24 GB card": Case(
        m.linux(64, 16, GPU("RTX 4090", 24 * GIB)), VLLM, "recommended", "gpt-oss-20b", 22
    ),
    "H200": Case(
        m.linux(256, 32, GPU("H200", 141 * GIB)), VLLM, "high-performance", "qwen3-30b-a3b", 127
    ),
    "CPU, 8 GB": Case(m.linux(8, 4), CPU, "minimum", "qwen3-4b", 6),
    "CPU, 32 GB": Case(m.linux(32, 8), CPU, "recommended", "qwen3-30b-a3b", 29),
    "CPU, 64 GB": Case(m.linux(64, 16), CPU, "high-performance", "qwen3-30b-a3b", 58),
}


def recommend(
    monkeypatch: pytest.MonkeyPatch, folder: Path, case: Case, **env: str
) -> Recommendation:
    m.pretend(monkeypatch, case.host, **case.looks)
    found = examine(folder, **env)
    assert found.suits is not None, found.fix
    return found.suits


def models_by_kind(found: Recommendation) -> dict[str, ModelSuggestion]:
    return {each.kind: each for each in found.models}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_class_gets_models_that_fit(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = recommend(monkeypatch, tmp_path, case)
    assert found.level == case.level and found.memory_bytes <= case.usable * GIB
    picks = models_by_kind(found)
    assert picks["reasoning"].name == case.reasoning
    for each in picks.values():
        offer = OURS.models[each.name].offers[each.format]
        assert offer.size < each.memory_bytes <= found.memory_bytes, each
        least = 16_384 if each.kind == "coder" else 8192
        assert each.context >= min(least, OURS.models[each.name].context)
        assert each.command.startswith(f"vllm-obtain pull {each.name}") and each.ready
    values = {each.name: each.value for each in found.settings}
    assert Settings.load(values).default_model == values["DEFAULT_MODEL"] in str(picks)


def test_a_slow_chip_gets_what_is_fast_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same memory: a fast chip gets the large dense model, a slow one does not."""
    slow = Case(m.apple("M4", 128, 10, 4), MAC, "", "", 0)
    fast = Case(m.apple("M3 Ultra", 128, 28, 20), MAC, "", "", 0)
    assert models_by_kind(recommend(monkeypatch, tmp_path, fast))["chat"].name == "llama3.3-70b"
    assert models_by_kind(recommend(monkeypatch, tmp_path, slow))["chat"].name == "phi-4"


def test_a_card_whose_engine_is_missing_is_not_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(m.linux(64, 16, GPU("RTX 4090", 24 * GIB)), CPU, "", "", 0)
    pick = models_by_kind(recommend(monkeypatch, tmp_path, case))["reasoning"]
    assert (pick.engine, pick.ready) == ("vllm", False)
    # By itself pull would fetch what the engine that is there loads, on the processor.
    assert pick.command == "vllm-obtain pull gpt-oss-20b --format safetensors"
    assert "vllm (not installed)" in report_text(examine(tmp_path), 140)


def test_a_card_with_llama_cpp_alone_gets_gguf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(m.linux(64, 16, GPU("RTX 4090", 24 * GIB)), {"llama_cpp": m.LLAMA_CUDA}, "", "", 0)
    picks = models_by_kind(recommend(monkeypatch, tmp_path, case)).values()
    assert {(each.engine, each.format) for each in picks} == {("llama_cpp", "gguf")}


def test_several_cards_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [GPU("RTX 4090", 24 * GIB)] * 3
    found = recommend(monkeypatch, tmp_path, Case(m.linux(64, 16, *cards), VLLM, "", "", 0))
    assert found.level == "high-performance" and found.memory_bytes < 48 * GIB
    values = {each.name: each.value for each in found.settings}
    assert values["VLLM_TENSOR_PARALLEL_SIZE"] == "2"


def test_what_the_owner_lets_models_have_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES["CPU, 64 GB"]
    small = recommend(monkeypatch, tmp_path, case, memory_limit="4G", default_model="mine")
    assert small.memory_bytes == 4 * GIB and small.level == "high-performance"
    assert all(each.memory_bytes <= 4 * GIB for each in small.models)
    assert "DEFAULT_MODEL" not in {each.name for each in small.settings}
    cpu = Case(m.linux(32, 8, GPU("H200", 141 * GIB)), CPU, "", "", 0)
    picks = recommend(monkeypatch, tmp_path, cpu, device_type="cpu").models
    assert {each.engine for each in picks} == {"llama_cpp"}


def test_where_nothing_fits_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = recommend(monkeypatch, tmp_path, Case(m.linux(2, 1), CPU, "", "", 0))
    assert found.level == "below minimum" and found.models == found.settings == []
    assert "No model of the catalog fits" in report_text(examine(tmp_path), 120)


def test_it_is_in_the_table_and_in_the_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, CASES["M2 Pro, 32 GB"].host, **MAC)
    models = tmp_path / "models"
    models.mkdir()
    write_gguf(models / "qwen3-30b-a3b.gguf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELS_DIR", str(models))
    answer = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    suits = answer["suits"]
    assert suits["level"] == "recommended"
    assert suits["models"] == [asdict(each) for each in examine(models).suits.models]  # type: ignore[union-attr]
    (here,) = [each for each in suits["models"] if each["here"]]
    assert here["name"] == "qwen3-30b-a3b"
    text = report_text(examine(models), 80)
    for each in suits["models"]:
        assert f"       {each['command']}" in text
    assert "pull qwen3-30b-a3b  # already downloaded" in text
    assert "hardware tier: recommended; 21 GiB for models" in text


def test_names_of_the_owners_are_recommended_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = """
[models.ours]
about = "Ours"
kind = "reasoning"
parameters = 9
licence = "MIT"
family = "chatml"
context = 32768
[models.ours.gguf]
huggingface = "we/ours"
file = "*.gguf"
size = 2_000_000_000
"""
    (tmp_path / library.FILE).write_text(entry)
    case = CASES["CPU, 8 GB"]
    assert (
        models_by_kind(recommend(monkeypatch, tmp_path, case, memory_limit="7G"))["reasoning"].name
        != "ours"
    )
    # With the bytes that a token takes it is known to fit.
    (tmp_path / library.FILE).write_text(
        entry.replace("[models.ours.gguf]", "cache = 65_536\n[models.ours.gguf]")
    )
    assert (
        models_by_kind(recommend(monkeypatch, tmp_path, case, memory_limit="7G"))["reasoning"].name
        == "ours"
    )
