import os
import sys
from pathlib import Path

import psutil
import pytest

from vllm_obtain.errors import StartError
from vllm_obtain.hardware import host as host_info
from vllm_obtain.hardware import machine as hardware
from vllm_obtain.hardware.machine import GPU, Machine

GIB = 2**30
M1 = """\
machdep.cpu.brand_string: Apple M1
hw.memsize: 17179869184
hw.physicalcpu: 8
hw.logicalcpu: 8
hw.perflevel0.physicalcpu: 4
"""
M3_ULTRA = """\
machdep.cpu.brand_string: Apple M3 Ultra
hw.memsize: 549755813888
hw.physicalcpu: 32
hw.logicalcpu: 32
hw.perflevel0.physicalcpu: 24
"""
MAC_VM = """\
machdep.cpu.brand_string: Apple M1 (Virtual)
hw.memsize: 7516192768
hw.physicalcpu: 3
hw.logicalcpu: 3
"""
EPYC = """\
processor	: 0
vendor_id	: AuthenticAMD
model		: 2
model name	: AMD EPYC 9654
flags		: fpu vme: de

processor	: 1
model name	: AMD EPYC 9654
"""
NEOVERSE = """\
processor	: 0
BogoMIPS	: 50.00
CPU implementer	: 0x41
CPU architecture: 8
CPU part	: 0xd0c
"""
RASPBERRY = f"""\
{NEOVERSE}
Revision	: c04170
Model		: Raspberry Pi 5 Model B Rev 1.0
"""
MAC = Machine("Darwin", "arm64", "Apple M1", 8, 8, 4, 16 * GIB, (GPU("Apple M1", 16 * GIB, True),))
PLAIN = Machine("Linux", "x86_64", "AMD EPYC", 2, 2, 2, 24 * GIB)
WITH_CARD = Machine("Linux", "x86_64", "AMD EPYC", 2, 2, 2, 24 * GIB, (GPU("H200", 141 * GIB),))


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """A container's limits: 2 processors, 1 GiB of which 400 MiB are taken, 100 of them cache."""
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    (tmp_path / "memory.current").write_text(f"{400 * 2**20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 7\ninactive_file {100 * 2**20}\nodd\n")
    monkeypatch.setattr(host_info, "cgroups", lambda: [tmp_path / "missing", tmp_path])
    return tmp_path


@pytest.mark.parametrize(
    ("text", "model", "cores", "fast", "memory"),
    [
        (M1, "Apple M1", 8, 4, 16 * GIB),
        (M3_ULTRA, "Apple M3 Ultra", 32, 24, 512 * GIB),
        (MAC_VM, "Apple M1 (Virtual)", 3, 3, 7 * GIB),
    ],
)
def test_a_mac(text, model, cores, fast, memory):
    machine = hardware.describe_mac("arm64", host_info.parse_pairs(text), 1)
    assert machine == Machine(
        "Darwin", "arm64", model, cores, cores, fast, memory, (GPU(model, memory, unified=True),)
    )
    assert machine.device == "mps"


def test_a_mac_that_says_nothing():
    machine = hardware.describe_mac("arm64", {}, 8 * GIB)
    assert machine.cpu_model == "arm64"
    assert machine.cores_physical >= 1 and machine.performance_cores >= 1
    assert machine.memory_bytes == 8 * GIB


def test_describe_asks_sysctl_on_a_mac(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(host_info, "sysctl", lambda: host_info.parse_pairs(M1))
    machine = hardware.describe()
    assert machine.cpu_model == "Apple M1"
    assert machine.gpus == () and machine.device == "cpu"  # this Python runs under Rosetta


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine():
    machine = hardware.describe()
    assert machine.system == "Linux" and machine.cpu_model
    assert 1 <= machine.cores_physical <= machine.cores_logical <= (os.cpu_count() or 1)
    assert 0 < machine.memory_bytes <= psutil.virtual_memory().total
    assert hardware.describe() is machine


@pytest.mark.skipif(sys.platform != "linux", reason="cgroups")
def test_a_container_has_what_its_cgroup_allows(cgroup):
    machine = hardware.describe()
    assert machine.memory_bytes == GIB
    assert machine.cores_logical == min(2, len(os.sched_getaffinity(0)))
    values = hardware.sample()
    assert values["memory_available_bytes"] == (1024 - 300) * 2**20
    assert values["memory_used_bytes"] == 300 * 2**20
    (cgroup / "cpu.max").write_text("50000 100000\n")
    hardware.describe.cache_clear()
    assert hardware.describe().cores_logical == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_machine_without_proc(monkeypatch, tmp_path):
    def nothing(*args, **more):
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(host_info, "read", lambda _path: "")
    for name in ("virtual_memory", "cpu_count", "cpu_percent", "disk_usage"):
        monkeypatch.setattr(psutil, name, nothing)
    monkeypatch.setattr(os, "sched_getaffinity", nothing)
    machine = hardware.describe()
    assert machine.cpu_model == machine.arch
    assert machine.cores_physical >= 1 and machine.memory_bytes > 0
    assert hardware.sample(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EPYC, "AMD EPYC 9654"),
        (NEOVERSE, "aarch64 (implementer 0x41, part 0xd0c)"),
        (RASPBERRY, "Raspberry Pi 5 Model B Rev 1.0"),
        ("", "aarch64"),
        ("nonsense\n::\n", "aarch64"),
    ],
)
def test_cpuinfo(text, expected):
    assert host_info.parse_cpuinfo(text, "aarch64") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000", 1.5),
        ("max 100000\n", None),
        ("100000", 1.0),
        ("", None),
        ("a b", None),
    ],
)
def test_cpu_max(text, expected):
    assert host_info.parse_cpu_max(text) == expected


def test_cgroup_folders_run_from_the_process_to_the_root():
    root = Path("/c")
    text = "9:name=systemd:/\n0::/system.slice/vllm-obtain.service\n"
    inner = root / "system.slice/vllm-obtain.service"
    assert host_info.parse_cgroup(text, root) == [inner, root / "system.slice", root]
    assert host_info.parse_cgroup("0::/\n", root) == [root]
    assert host_info.parse_cgroup("4:memory:/x\n", root) == []


def test_the_narrowest_limit_of_nested_cgroups_counts(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "cpu.max").write_text("max 100000")
    (inner / "cpu.max").write_text("350000 100000")
    (tmp_path / "memory.max").write_text("4096")
    (inner / "memory.max").write_text("max")
    assert host_info.cpu_limit([inner, tmp_path]) == 3
    assert host_info.memory_limit([inner, tmp_path]) == 4096
    assert host_info.memory_left([inner, tmp_path]) == 4096
    assert (
        host_info.cpu_limit([]) is host_info.memory_limit([]) is host_info.memory_left([]) is None
    )


@pytest.mark.parametrize(
    ("machine", "setting", "expected"),
    [
        (MAC, "auto", "mps"),
        (MAC, "mps", "mps"),
        (MAC, "cpu", "cpu"),
        (PLAIN, "auto", "cpu"),
        (WITH_CARD, "auto", "cuda"),
        (WITH_CARD, "cuda", "cuda"),
        (WITH_CARD, "cpu", "cpu"),
    ],
)
def test_device(machine, setting, expected):
    assert hardware.device(setting, machine) == expected


@pytest.mark.parametrize(
    ("machine", "setting", "says"),
    [
        (PLAIN, "cuda", ["an NVIDIA GPU", "AMD EPYC", "24 GiB, no NVIDIA GPU", "cpu here"]),
        (WITH_CARD, "mps", ["an Apple silicon Mac", "H200", "selects cuda here"]),
        (MAC, "cuda", ["an NVIDIA GPU", "Apple M1", "mps here"]),
    ],
)
def test_a_device_that_is_not_there_is_a_start_error(machine, setting, says):
    with pytest.raises(StartError, match=f"DEVICE_TYPE={setting} ") as caught:
        hardware.device(setting, machine)
    for part in [*says, "Set DEVICE_TYPE=auto"]:
        assert part in str(caught.value)


def test_sample(tmp_path):
    values = hardware.sample(tmp_path / "not" / "yet" / "there")
    assert 0 <= values["cpu_percent"] <= 100
    total = values["memory_total_bytes"]
    assert values["memory_used_bytes"] + values["memory_available_bytes"] == total
    assert 0 < values["disk_free_bytes"] <= values["disk_total_bytes"]
    assert all(isinstance(value, float) for value in values.values())


@pytest.mark.parametrize(
    ("setting", "cores", "expected"), [(3, 64, 3), (0, 1, 1), (0, 2, 1), (0, 16, 8), (0, 64, 8)]
)
def test_workers_by_cores(setting, cores, expected):
    machine = hardware.Machine("Linux", "x86_64", "a cpu", cores, cores, cores, 2**34)
    assert hardware.workers(setting, machine) == expected
