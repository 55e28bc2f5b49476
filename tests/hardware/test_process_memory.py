import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from vllm_obtain.hardware import host as host_info
from vllm_obtain.hardware import machine as hardware
from vllm_obtain.hardware import process_memory

SMAPS = """\
5596f6693000-7ffcdeea3000 ---p 00000000 00:00 0                          [rollup]
Rss:                1764 kB
Pss:                 564 kB
Pss_Dirty:           112 kB
"""
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
    monkeypatch.setattr(host_info, "read", lambda _path: "")
    # What the process started counts as its own, and other tests' services may still run.
    own = psutil.Process()
    rss = sum(each.memory_info().rss for each in [own, *own.children(recursive=True)])
    assert hardware.process_memory(os.getpid()) == pytest.approx(rss, rel=0.5)


def test_smaps_rollup():
    assert process_memory.parse_smaps_rollup(SMAPS) == 564 * 1024
    assert process_memory.parse_smaps_rollup("") is None
    assert process_memory.parse_smaps_rollup("Pss: many kB") is None


def test_the_footprint_of_a_mac_is_the_eighth_number_after_the_uuid(monkeypatch):
    def answer(pid, flavor, pointer):
        assert flavor == 4
        words = pointer._obj
        for index in range(37):
            words[index] = index * 1000
        return 0 if pid == 5 else -1

    monkeypatch.setattr(process_memory, "_libproc", lambda: SimpleNamespace(proc_pid_rusage=answer))
    assert process_memory._phys_footprint(5) == 9000
    assert process_memory._phys_footprint(6) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="has the library")
def test_no_libproc_is_no_footprint():
    process_memory._libproc.cache_clear()
    assert process_memory._phys_footprint(os.getpid()) is None
