import sys
from types import SimpleNamespace

import pytest

from vllm_obtain.hardware import machine as hardware
from vllm_obtain.hardware import nvidia
from vllm_obtain.hardware.machine import GPU

GIB = 2**30


class FakeNvml:
    """Two GPUs; the second one shares the machine's memory and reports no utilisation."""

    inits = 0

    def nvmlInit(self):  # noqa: N802 - NVML's names
        self.inits += 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return uuid

    def nvmlDeviceGetUUID(self, gpu):  # noqa: N802
        return f"GPU-{gpu}abc"

    def nvmlDeviceGetName(self, gpu):  # noqa: N802
        return [b"NVIDIA H200", "NVIDIA GB10"][gpu] if isinstance(gpu, int) else "H200 MIG 1g.18gb"

    def nvmlDeviceGetMemoryInfo(self, gpu):  # noqa: N802
        if gpu == 1:
            raise RuntimeError("Not Supported")
        return SimpleNamespace(total=141 * GIB, used=5 * GIB)

    def nvmlDeviceGetUtilizationRates(self, gpu):  # noqa: N802
        if gpu != 0:
            raise RuntimeError("Not Supported")
        return SimpleNamespace(gpu=37)


@pytest.fixture
def nvml(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.mark.skipif(sys.platform == "darwin", reason="no NVML on a Mac")
def test_nvidia_gpus(nvml):
    machine = hardware.describe()
    assert machine.gpus == (
        GPU("NVIDIA H200", 141 * GIB),
        GPU("NVIDIA GB10", machine.memory_bytes, unified=True),
    )
    assert machine.device == "cuda"
    values = hardware.sample()
    assert {name: value for name, value in values.items() if name.startswith("gpu")} == {
        "gpu0_utilization_percent": 37.0,
        "gpu0_memory_used_bytes": 5.0 * GIB,
        "gpu0_memory_total_bytes": 141.0 * GIB,
    }
    assert nvml.inits == 1


def test_gpus_hidden_from_the_process_are_not_there(nvml, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert nvidia.names_and_memory() == []
    nvidia._open.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    assert nvidia.names_and_memory() == [("H200 MIG 1g.18gb", 141 * GIB)]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        (" 1 ", [1]),
        ("1,9,0", [1]),
        ("GPU-b", [1]),
        ("GPU-", []),
        ("0,0", [0]),
    ],
)
def test_cuda_visible_devices(setting, expected):
    assert nvidia.visible(setting, ["GPU-a1", "GPU-b2", "GPU-c3"]) == expected


def test_a_broken_driver_is_no_gpu(nvml, monkeypatch):
    def broken():
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    monkeypatch.setattr(nvml, "nvmlInit", broken)
    assert nvidia.names_and_memory() == []
    assert nvidia.sample() == {}
