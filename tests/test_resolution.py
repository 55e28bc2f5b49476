"""The dependencies resolve to wheels on each platform and Python, so that nothing is compiled."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.service import ROOT

# MLX has wheels from macOS 14 and glibc 2.35 on.
MAC, X86, ARM = "aarch64-apple-darwin", "x86_64-manylinux_2_35", "aarch64-manylinux_2_35"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EVERY = [
    (*each, extras) for each in itertools.product((MAC, X86, ARM), PYTHONS) for extras in (0, 1)
]
SOME = [(MAC, "3.11", 0), (MAC, "3.14", 1), (X86, "3.11", 1), (ARM, "3.14", 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "python", "extras"), EVERY if os.environ.get("LONG") else SOME
)
def test_the_dependencies_have_wheels(
    platform: str, python: str, extras: int, tmp_path: Path
) -> None:
    uv = shutil.which("uv", path=f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert uv is not None, "uv is installed with the test dependencies"
    target = ["--python-platform", platform, "--python-version", python]
    output = tmp_path / "requirements.txt"
    command = [
        uv,
        "pip",
        "compile",
        "-q",
        str(ROOT / "pyproject.toml"),
        *extras * ["--all-extras"],
        *target,
    ]
    result = subprocess.run(
        [*command, "--only-binary", ":all:", "-o", str(output)],
        env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"},
        capture_output=True,
        text=True,
        timeout=170,
    )
    if result.returncode and "No solution found" not in result.stderr:
        pytest.skip(f"the package index does not answer: {result.stderr.strip()[:200]}")
    assert result.returncode == 0, result.stderr
    resolved = {line.partition("==")[0] for line in output.read_text().splitlines()}
    assert ("mlx-lm" in resolved) == (platform == MAC or bool(extras))
