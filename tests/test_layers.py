"""Imports point one way: a room may use those below it, never those above."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from tests.service import ROOT

PACKAGE = ROOT / "vllm_obtain"

# From the bottom up; modules on one line may use each other.
LAYERS = [
    {
        "errors",
        "settings",
        "setting_kinds",
        "setting_sources",
        "sealed",
        "model_file",
        "model_settings",
        "_host",
        "_nvidia",
        "_footprint",
        "_log_file",
        "_log_lines",
        "cooperative",
    },
    {"log", "cores", "hardware", "protocol", "access"},
    {"catalogue"},
    {"messages"},
    {"metrics", "vllm_metrics", "engines", "chat", "images", "tracing"},
    {"fetching"},
    {"supervisor"},
    {"api"},
    {"announce"},
    {"draining"},
    {"upgrading"},
    {"launch", "gunicorn_conf", "doctor", "service_files", "backup", "measuring"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# What runs in a child process imports the standard library and its engine only.
ALONE = {
    "supervisor/guard.py": set(),
    "engines/detect_probe.py": {"xllamacpp", "mlx", "mlx_lm", "torch", "torchvision"},
    "engines/llama_cpp_server.py": {"xllamacpp"},
    "engines/mlx_server.py": set(),
    "engines/vllm_server.py": {"vllm", "torch"},
    "chat/trial_process.py": {"llguidance"},
    "upgrading/shell.py": set(),
}

FILES = sorted(PACKAGE.rglob("*.py"))
# The files of our MLX server; they know each other, by relative imports, and nothing else of ours.
MLX = [str(path.relative_to(PACKAGE)) for path in FILES if "engines/mlx/" in path.as_posix()]
ALONE |= {name: {"mlx", "mlx_lm"} for name in MLX}
ALONE["engines/mlx/grammar.py"] |= {"llguidance"}


def imported(path: Path) -> set[str]:
    """Full names of the modules a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            found.add(node.module)
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    if room(path) == "__init__":
        return
    level = LEVEL[room(path)]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "vllm_obtain" and len(parts) > 1 and (PACKAGE / parts[1]).with_suffix(""):
            used = parts[1]
            if used in LEVEL and used != room(path):
                assert LEVEL[used] <= level, f"{room(path)} must not use {used}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_api_knows_flask(path: Path) -> None:
    if room(path) != "api":
        assert not any(name.split(".")[0] == "flask" for name in imported(path))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_engine_is_imported_into_our_processes(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    engines = {"xllamacpp", "vllm", "mlx", "mlx_lm"}
    if name not in ALONE:
        assert not engines & {found.split(".")[0] for found in imported(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_conversions_import_what_is_heavy(path: Path) -> None:
    if path.parent.name != "convert":
        heavy = {"numpy", "gguf", "tokenizers", "safetensors"}
        assert not heavy & {found.split(".")[0] for found in imported(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_hubs_are_reached_by_who_fetches_alone_and_only_then(path: Path) -> None:
    libraries = {"huggingface_hub", "modelscope_hub"}
    if room(path) != "fetching":
        assert not libraries & {found.split(".")[0] for found in imported(path)}
    top = ast.parse(path.read_text()).body
    named = [node for node in top if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not libraries & set(" ".join(ast.unparse(node) for node in named).split())


@pytest.mark.parametrize("name", ALONE)
def test_child_processes_import_only_the_standard_library(name: str) -> None:
    import sys

    roots = {found.split(".")[0] for found in imported(PACKAGE / name)}
    assert roots <= set(sys.stdlib_module_names) | ALONE[name] | {"__future__"}


def test_the_mlx_server_reaches_no_further_than_its_folder() -> None:
    assert MLX
    for name in MLX:
        nodes = ast.walk(ast.parse((PACKAGE / name).read_text()))
        assert all(node.level <= 1 for node in nodes if isinstance(node, ast.ImportFrom))


def test_every_engine_pattern_is_covered_by_a_layer() -> None:
    assert {room(path) for path in FILES} - set(LEVEL) == {"__init__"}


def test_every_package_is_in_what_is_installed() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = (ROOT / "vllm_obtain").rglob("__init__.py")
    there = [".".join(path.parent.relative_to(ROOT).parts) for path in folders]
    assert sorted(told) == sorted(there)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_telemetry_is_imported_where_it_is_configured_alone(path: Path) -> None:
    if path != PACKAGE / "tracing" / "spans.py":
        assert not any(name.startswith("opentelemetry") for name in imported(path))
    top = ast.parse(path.read_text()).body
    named = [node for node in top if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "opentelemetry" not in " ".join(ast.unparse(node) for node in named)
