from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models.gguf_files import write_gguf
from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.hardware.machine import GPU, Machine
from vllm_obtain.models import Model
from vllm_obtain.models.scan import read_file
from vllm_obtain.supervisor.memory.estimate import (
    GIB,
    OVERHEAD_GPU,
    fits,
    free_and_total,
    need,
    on_own_gpu,
)

LIMITS = EngineLimits(8, 10_000, 1000)


def machine(*gpus: GPU) -> Machine:
    return Machine("Linux", "x86_64", "cpu", 8, 8, 8, 64 * GIB, gpus)


def test_weights_and_cache_are_counted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "hidden_size": 256,
                "num_hidden_layers": 10,
            }
        )
    )
    folder = Model("m", tmp_path, "safetensors", 10 * GIB, "r", 0)
    per_token = 10 * 2 * 2 * 64 * 2
    assert need(folder, LIMITS, GIB) == 11 * GIB + 10_000 * per_token + GIB
    assert need(folder, LIMITS, OVERHEAD_GPU) == 11 * GIB + 10_000 * per_token + OVERHEAD_GPU


def test_a_gguf_file_tells_what_its_cache_takes(tmp_path: Path) -> None:
    model = read_file(write_gguf(tmp_path / "a.gguf"))
    assert model is not None and model.header is not None
    per_token = model.header.kv_bytes_per_token() or 0
    wanted = int(model.size_bytes * 1.1) + 10_000 * per_token + GIB
    assert need(model, LIMITS, GIB) == wanted
    assert need(model, LIMITS, 0, 1, GIB) == int(GIB * 1.1) + 10_000 * per_token // 2


@pytest.mark.parametrize(
    ("needed", "available", "expected"),
    [(10, 15, True), (10, 14, False), (0, 4, False), (96, 100, False), (95, 100, True)],
)
def test_some_memory_is_left_free(needed: int, available: int, expected: bool) -> None:
    assert fits(needed, available, 100) is expected


def test_where_memory_is_counted() -> None:
    values = {
        "memory_total_bytes": 64.0,
        "memory_available_bytes": 20.0,
        "gpu0_memory_total_bytes": 80.0,
        "gpu0_memory_used_bytes": 70.0,
        "gpu1_memory_total_bytes": 80.0,
        "gpu1_memory_used_bytes": 5.0,
    }
    assert free_and_total(values, on_gpu=False) == (20, 64)
    assert free_and_total(values, on_gpu=True) == (85, 160)
    assert not fits(1, *free_and_total({}, on_gpu=False)), "unknown is no"
    assert not fits(1, *free_and_total({}, on_gpu=True))


def test_whose_memory_it_is() -> None:
    assert on_own_gpu(machine(GPU("H200", 139 * GIB)), "cuda")
    assert not on_own_gpu(machine(GPU("H200", 139 * GIB)), "cpu")
    assert not on_own_gpu(machine(GPU("GB10", 64 * GIB, unified=True)), "cuda")
    assert not on_own_gpu(machine(), "cpu")
    assert not on_own_gpu(machine(GPU("M3", 64 * GIB, unified=True)), "mps")
