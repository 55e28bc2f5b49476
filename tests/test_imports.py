"""What `lint-imports` does not check: cycles, imports at run time and those of child processes.

The directions between packages are contracts of import-linter, in pyproject.toml.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

from tests.service import ROOT

PACKAGE = ROOT / "vllm_obtain"
# What runs in a child process imports the standard library and its engine only.
ALONE = {
    "supervisor/engine/guard.py": set(),
    "engines/detection/probe.py": {"xllamacpp", "mlx", "mlx_lm", "torch", "torchvision"},
    "engines/llama_cpp/server.py": {"xllamacpp"},
    "engines/mlx/server_main.py": set(),
    "engines/vllm/server.py": {"vllm", "torch"},
    "chat/grammar_trial.py": {"llguidance", "jsonschema_rs"},
    "server/upgrade/pid_holder.py": set(),
}
# The files of our MLX server know each other, by relative imports, and nothing else of ours.
MLX = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("engines/mlx/server/*.py")]
ALONE |= {name: {"mlx", "mlx_lm"} for name in MLX}
ALONE["engines/mlx/server/guided_decoding.py"] |= {"llguidance"}
# Libraries that are imported when they are needed, if ever: they are slow, or optional.
LATE = ["huggingface_hub", "modelscope_hub", "opentelemetry"]


def imports_of(name: str) -> tuple[set[str], int]:
    """The packages that a file imports, wherever in it, and the dots of its furthest import."""
    packages: set[str] = set()
    dots = 0
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            dots = max(dots, node.level)
            if node.module and not node.level:
                packages.add(node.module.split(".")[0])
    return packages, dots


def test_child_processes_import_only_the_standard_library() -> None:
    assert MLX
    for name, theirs in ALONE.items():
        packages, dots = imports_of(name)
        assert packages <= {*sys.stdlib_module_names, *theirs}, name
        assert dots <= (1 if name in MLX else 0), name


def test_what_is_slow_or_optional_is_imported_late() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
        if path.name != "__main__.py" and path.relative_to(PACKAGE).as_posix() not in ALONE
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
        f"print(*[name for name in {LATE} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout.strip(), result.returncode) == ("", 0), result.stderr


def test_modules_import_each_other_in_one_direction() -> None:
    graph = grimp.build_graph(PACKAGE.name, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}", pytrace=False)
