"""Probes are real processes here: of this Python, and of stand-ins that misbehave."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.engines.machines import LLAMA_CPU, LLAMA_CUDA, PLAIN, pretend
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.detection import cache as probe_cache
from vllm_obtain.engines.detection import detect, probe
from vllm_obtain.engines.detection import run_probe as run_probe_module
from vllm_obtain.engines.detection.probe import MARK
from vllm_obtain.engines.detection.run_probe import ProbeResult, read, run_probe

HAS_MLX = importlib.util.find_spec("mlx_lm") is not None
SETTINGS = Settings()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache on disk and in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(detect, "_known", {})
    return tmp_path / "cache" / "vllm-obtain"


def stand_in(folder: Path, script: str) -> str:
    """An interpreter that runs a shell script whatever it is asked."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


def test_the_engine_of_this_python_is_found() -> None:
    before = set(sys.modules)
    result = run_probe("llama_cpp", sys.executable)
    assert result.installed and result.error is None
    assert result.version == importlib.metadata.version("xllamacpp")
    assert result.devices[-1] == "cpu"
    assert "xllamacpp" not in set(sys.modules) - before
    assert (result.prefix == sys.prefix) == (sys.prefix != sys.base_prefix)


@pytest.mark.skipif(not HAS_MLX, reason="MLX is not installed: pip install 'mlx[cpu]' mlx-lm")
def test_mlx_is_found_though_a_folder_of_ours_has_its_name() -> None:
    before = set(sys.modules)
    result = run_probe("mlx", sys.executable)
    assert (result.installed, result.error) == (True, None)
    assert result.devices and "mlx" not in set(sys.modules) - before


def test_a_python_without_packages_has_no_engine(tmp_path: Path) -> None:
    bare = stand_in(tmp_path, f'exec "{sys.executable}" -S -E "$@"')
    for engine in ("llama_cpp", "mlx", "vllm"):
        result = run_probe(engine, bare)
        assert (result.installed, result.error, result.conclusive) == (False, None, True)


def test_a_probe_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    says = f'{MARK}{{"installed": true, "version": "7"}}'
    script = f"echo '{says}'\nsleep 60 & echo $! > {pidfile}\nwait"
    began = time.monotonic()
    result = run_probe("vllm", stand_in(tmp_path, script), deadline=0.5)
    assert time.monotonic() - began < 20
    assert (result.installed, result.version) == (True, "7")
    assert result.error == "it did not respond within 0.5 seconds"
    child = int(pidfile.read_text())
    end = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and "Z" not in _state(child):
        assert time.monotonic() < end
        time.sleep(0.01)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("kill -SEGV $$", "importing it kills Python with SIGSEGV"),
        (
            "echo 'no such library' >&2; exit 3",
            "importing it ends Python with exit status 3: no such",
        ),
        ("exit 0", "the probe printed nothing"),
        ("head -c 100000 /dev/urandom", "the probe printed nothing"),
        (f"echo '{MARK}[1, 2]'; echo '{MARK}{{'", "the probe printed nothing"),
        (f"echo '{MARK}{{\"devices\": 7}}'", "unexpected output"),
    ],
)
def test_a_probe_that_crashes_or_prints_junk_is_an_answer(
    script: str, error: str, tmp_path: Path
) -> None:
    result = run_probe("llama_cpp", stand_in(tmp_path, script))
    assert error in (result.error or "") and not result.conclusive


def test_junk_around_what_a_probe_says_does_not_matter() -> None:
    said = f'Welcome!\n{MARK}{{"installed": true}}\nnoise\n{MARK}{{"devices": ["cpu"]}}\n'
    assert read(said, None) == ProbeResult(True, None, ("cpu",))


def test_a_python_that_is_not_there_or_cannot_be_run(tmp_path: Path) -> None:
    assert "No such file" in (run_probe("vllm", str(tmp_path / "none")).error or "")
    (tmp_path / "text").write_text("hello")
    assert "cannot run" in (run_probe("vllm", str(tmp_path / "text")).error or "")


def test_the_known_fault_of_torchvision_is_named() -> None:
    said = f'{MARK}{{"installed": true, "error": "operator torchvision::nms does not exist"}}'
    assert "does not match its torch" in (read(said, None).error or "")
    assert len(read(f'{MARK}{{"error": "{"x" * 5000}"}}', None).error or "") < 400


def test_what_was_found_is_kept_on_disk_until_packages_change(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "site-packages"
    packages.mkdir()
    seen = ProbeResult(True, "1", ("cpu",), paths=(str(packages), str(tmp_path)))
    probe_cache.save("vllm", "/p", probe_cache.entry("vllm", "/p", seen))
    assert (found := probe_cache.load("vllm", "/p")) is not None and found.look == seen
    assert probe_cache.load("mlx", "/p") is None and probe_cache.load("vllm", "/q") is None
    (tmp_path / "another").mkdir()  # not a folder of packages
    assert probe_cache.load("vllm", "/p") is not None
    os.utime(packages, ns=(1, 1))
    assert probe_cache.load("vllm", "/p") is None
    probe_cache.save("vllm", "/p", probe_cache.entry("vllm", "/p", seen))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert probe_cache.load("vllm", "/p") is None


def test_gateway_and_supervisor_share_what_was_found(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    probe_cache.save("mlx", "/p", probe_cache.entry("mlx", "/p", ProbeResult()))
    ours = str(Path(detect.__file__).parents[3])
    monkeypatch.setenv("PYTHONPATH", ours)  # as the gateway sets it for the supervisor
    assert probe_cache.load("mlx", "/p") is not None
    monkeypatch.setenv("PYTHONPATH", f"{ours}{os.pathsep}/elsewhere")
    assert probe_cache.load("mlx", "/p") is None


def test_another_version_of_ours_looks_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe_cache.save("mlx", "/p", probe_cache.entry("mlx", "/p", ProbeResult()))
    monkeypatch.setattr(probe_cache, "__version__", "0.0.0")
    assert probe_cache.load("mlx", "/p") is None


def test_trouble_is_not_kept_for_long(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe_cache.save(
        "mlx", "/p", probe_cache.entry("mlx", "/p", ProbeResult(True, error="it hung"))
    )
    assert probe_cache.load("mlx", "/p") is not None
    later = time.time() + 1000
    monkeypatch.setattr(time, "time", lambda: later)
    assert probe_cache.load("mlx", "/p") is None


def test_a_broken_or_forbidden_cache_is_no_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = probe_cache.entry("mlx", "/p", ProbeResult())
    probe_cache.save("mlx", "/p", made)
    (file,) = cache.iterdir()
    file.write_bytes(b"\xff{")
    assert probe_cache.load("mlx", "/p") is None
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    probe_cache.save("mlx", "/p", made)
    assert probe_cache.load("mlx", "/p") is None


def test_all_engines_are_looked_for_at_once_and_once_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, PLAIN)
    together, asked = threading.Barrier(3, timeout=10), []

    def looked(engine: str, python: str) -> ProbeResult:
        together.wait()  # none answers before all are asked
        asked.append(engine)
        return LLAMA_CPU

    monkeypatch.setattr(detect, "run_probe", looked)
    detect.warm(["llama_cpp", "mlx", "vllm", "mine"], SETTINGS)
    assert sorted(asked) == ["llama_cpp", "mlx", "vllm"]
    assert detect.facts("mlx", SETTINGS).device == "cpu" and len(asked) == 3


def test_a_status_never_waits_for_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, PLAIN)
    go, done = threading.Event(), threading.Event()

    def looked(engine: str, python: str) -> ProbeResult:
        assert go.wait(10)
        if engine == "llama_cpp":
            done.set()
        return LLAMA_CPU

    monkeypatch.setattr(detect, "run_probe", looked)
    assert {found.reason for found in detect.snapshot(SETTINGS)} == {"Detection is running."}
    go.set()
    assert done.wait(10)
    assert detect.facts("llama_cpp", SETTINGS).reason is None


def test_what_is_installed_meanwhile_is_seen_without_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, PLAIN, llama_cpp=LLAMA_CPU)
    assert detect.facts("llama_cpp", SETTINGS).device == "cpu"
    go, threads = threading.Event(), []

    def looked(engine: str, python: str) -> ProbeResult:
        threads.append(threading.current_thread())
        assert go.wait(10)
        return LLAMA_CUDA

    monkeypatch.setattr(detect, "run_probe", looked)
    monkeypatch.setattr(detect, "INTERVAL", 0.0)
    monkeypatch.setattr(probe_cache.CachedProbe, "holds", lambda *_: False)
    assert detect.facts("llama_cpp", SETTINGS).device == "cpu"
    assert detect.facts("llama_cpp", SETTINGS).device == "cpu"  # the probe is asked once
    go.set()
    while not threads:
        time.sleep(0.001)
    threads[0].join(10)
    assert len(threads) == 1
    monkeypatch.setattr(detect, "INTERVAL", 1000.0)
    assert detect.facts("llama_cpp", SETTINGS).device == "cuda"


def test_a_named_interpreter_is_vllms_alone(tmp_path: Path, cache: Path) -> None:
    own = Settings.load({"VLLM_PYTHON": str(tmp_path / "none")})
    assert detect.interpreter("vllm", own) == str(tmp_path / "none")
    assert detect.interpreter("mlx", own) == detect.interpreter("vllm", SETTINGS) == sys.executable
    found = detect.facts("vllm", own)
    assert "No such file" in (found.missing or "") and "Check VLLM_PYTHON." in (found.missing or "")


def test_an_orphaned_probe_ends_by_itself(tmp_path: Path) -> None:
    slow = tmp_path / "site-packages" / "xllamacpp.py"
    slow.parent.mkdir()
    slow.write_text("import time\ntime.sleep(60)\n")
    # As it is started, but for its last argument: after how many seconds it shall be over.
    script = f'PYTHONPATH="{slow.parent}" exec "{sys.executable}" -S "$1" "$2" "$3" 1'
    result = run_probe("llama_cpp", stand_in(tmp_path, script))
    assert result.error == "importing it kills Python with SIGALRM"


def test_deadlines_are_there_for_every_engine() -> None:
    assert run_probe_module.DEADLINES.keys() == probe.ENGINES.keys()
