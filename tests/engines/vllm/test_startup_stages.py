"""The stages of vLLM's start, read from what real starts printed (paths shortened)."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from vllm_obtain.engines.llama_cpp.adapter import LlamaCpp
from vllm_obtain.engines.vllm.adapter import Vllm

RECORDED = Path(__file__).parent / "vllm_output"
ORDER = ["importing", "loading weights", "profiling memory", "warming up", "serving"]


@pytest.mark.parametrize("name", ["cpu-0.32", "gpu-0.24"])
def test_a_recorded_start_goes_through_all_stages_in_order(name: str) -> None:
    lines = (RECORDED / f"{name}.txt").read_text().splitlines()
    found = [stage for line in lines if (stage := Vllm().stage(line))]
    assert [stage for stage, _ in groupby(found)] == ORDER


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Engine 000: Avg prompt throughput: 10.7 tokens/s, Running: 1, CPU KV cache usage: 0.1%",
        "WARNING [vllm.py:1703] Enforce eager set, disabling torch.compile, CUDAGraphs",
        "INFO:     Waiting for application startup.",
    ],
)
def test_other_lines_say_nothing(line: str) -> None:
    assert Vllm().stage(line) is None


def test_engines_that_start_fast_have_no_stages() -> None:
    assert LlamaCpp().stage("Starting to load model") is None
