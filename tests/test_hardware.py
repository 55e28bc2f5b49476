import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from vllm_obtain import _footprint, _host, _nvidia, hardware
from vllm_obtain.errors import StartError
from vllm_obtain.hardware import GPU, Machine

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
SMAPS = """\
5596f6693000-7ffcdeea3000 ---p 00000000 00:00 0                          [rollup]
Rss:                1764 kB
Pss:                 564 kB
Pss_Dirty:           112 kB
"""

MAC = Machine("Darwin", "arm64", "Apple M1", 8, 8, 4, 16 * GIB, (GPU("Apple M1", 16 * GIB, True),))
PLAIN = Machine("Linux", "x86_64", "AMD EPYC", 2, 2, 2, 24 * GIB)
WITH_CARD = Machine("Linux", "x86_64", "AMD EPYC", 2, 2, 2, 24 * GIB, (GPU("H200", 141 * GIB),))


@pytest.fixture(autouse=True)
def fresh():
    hardware.describe.cache_clear()
    _nvidia._opened.cache_clear()
    yield
    hardware.describe.cache_clear()
    _nvidia._opened.cache_clear()


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """A container's limits: 2 processors, 1 GiB of which 400 MiB are taken, 100 of them cache."""
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    (tmp_path / "memory.current").write_text(f"{400 * 2**20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 7\ninactive_file {100 * 2**20}\nodd\n")
    monkeypatch.setattr(_host, "cgroups", lambda: [tmp_path / "missing", tmp_path])
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
    machine = hardware.describe_mac("arm64", _host.parse_pairs(text), 1)
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
    monkeypatch.setattr(_host, "sysctl", lambda: _host.parse_pairs(M1))
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

    monkeypatch.setattr(_host, "read", lambda _path: "")
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
    assert _host.parse_cpuinfo(text, "aarch64") == expected


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
    assert _host.parse_cpu_max(text) == expected


def test_cgroup_folders_run_from_the_process_to_the_root():
    root = Path("/c")
    text = "9:name=systemd:/\n0::/system.slice/vllm-obtain.service\n"
    inner = root / "system.slice/vllm-obtain.service"
    assert _host.parse_cgroup(text, root) == [inner, root / "system.slice", root]
    assert _host.parse_cgroup("0::/\n", root) == [root]
    assert _host.parse_cgroup("4:memory:/x\n", root) == []


def test_the_narrowest_limit_of_nested_cgroups_counts(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "cpu.max").write_text("max 100000")
    (inner / "cpu.max").write_text("350000 100000")
    (tmp_path / "memory.max").write_text("4096")
    (inner / "memory.max").write_text("max")
    assert _host.cpu_limit([inner, tmp_path]) == 3
    assert _host.memory_limit([inner, tmp_path]) == 4096
    assert _host.memory_left([inner, tmp_path]) == 4096
    assert _host.cpu_limit([]) is _host.memory_limit([]) is _host.memory_left([]) is None


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
        (WITH_CARD, "mps", ["an Apple Silicon Mac", "H200", "cuda here"]),
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
    assert _nvidia.names_and_memory() == []
    _nvidia._opened.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    assert _nvidia.names_and_memory() == [("H200 MIG 1g.18gb", 141 * GIB)]


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
    assert _nvidia.visible(setting, ["GPU-a1", "GPU-b2", "GPU-c3"]) == expected


def test_a_broken_driver_is_no_gpu(nvml, monkeypatch):
    def broken():
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    monkeypatch.setattr(nvml, "nvmlInit", broken)
    assert _nvidia.names_and_memory() == []
    assert _nvidia.sample() == {}


CHILD = """
import subprocess, sys
block = bytearray(b"x" * (80 << 20))
if len(sys.argv) == 1:
    child = subprocess.Popen([sys.executable, __file__, "child"], stdout=subprocess.PIPE)
    child.stdout.readline()
print("ready", flush=True)
sys.stdin.read()
"""


def test_process_memory_counts_children(tmp_path):
    script = tmp_path / "tree.py"
    script.write_text(CHILD)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        size = hardware.process_memory(process.pid)
        most = hardware.most_memory(process.pid)
        assert size is not None and most is not None
        # Read at different moments, so that some pages may have come meanwhile.
        assert most >= size * 0.95, "what is quickly read is never less than what is exact"
        process.stdin.close()
    assert 160 * 2**20 < size < 300 * 2**20
    assert hardware.process_memory(process.pid) is None
    assert hardware.most_memory(process.pid) is None


def test_process_memory_of_a_zombie_and_of_no_process():
    process = subprocess.Popen(["true"])
    time.sleep(0.2)
    assert hardware.process_memory(process.pid) in (0, None)
    process.wait()
    for pid in (-1, 0, 2**31 - 1, 2**70):
        assert hardware.process_memory(pid) is None or pid == 0


def test_process_memory_falls_back_to_rss(monkeypatch):
    monkeypatch.setattr(_host, "read", lambda _path: "")
    # What the process started counts as its own, and other tests' services may still run.
    own = psutil.Process()
    rss = sum(each.memory_info().rss for each in [own, *own.children(recursive=True)])
    assert hardware.process_memory(os.getpid()) == pytest.approx(rss, rel=0.5)


def test_smaps_rollup():
    assert _footprint.parse_smaps_rollup(SMAPS) == 564 * 1024
    assert _footprint.parse_smaps_rollup("") is None
    assert _footprint.parse_smaps_rollup("Pss: many kB") is None


def test_the_footprint_of_a_mac_is_the_eighth_number_after_the_uuid(monkeypatch):
    def answer(pid, flavor, pointer):
        assert flavor == 4
        words = pointer._obj
        for index in range(37):
            words[index] = index * 1000
        return 0 if pid == 5 else -1

    monkeypatch.setattr(_footprint, "_libproc", lambda: SimpleNamespace(proc_pid_rusage=answer))
    assert _footprint._phys_footprint(5) == 9000
    assert _footprint._phys_footprint(6) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="has the library")
def test_no_libproc_is_no_footprint():
    _footprint._libproc.cache_clear()
    assert _footprint._phys_footprint(os.getpid()) is None


@pytest.mark.parametrize(
    ("setting", "cores", "expected"), [(3, 64, 3), (0, 1, 1), (0, 2, 1), (0, 16, 8), (0, 64, 8)]
)
def test_workers_by_cores(setting, cores, expected):
    machine = hardware.Machine("Linux", "x86_64", "a cpu", cores, cores, cores, 2**34)
    assert hardware.workers(setting, machine) == expected
