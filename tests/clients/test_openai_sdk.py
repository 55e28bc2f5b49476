"""The examples for OpenAI's own SDKs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.blocks import block, run
from tests.service import Service
from tests.test_docs import holds_words

NODE = shutil.which("node") and shutil.which("npm")


def test_the_example_for_python(service: Service, tmp_path: Path) -> None:
    assert holds_words(run(block("OpenAI SDK for Python", service), tmp_path))


@pytest.mark.skipif(not NODE, reason="node and npm are not installed")
def test_the_example_for_node(service: Service, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"private": true}')
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "openai"]
    result = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    if result.returncode != 0 and "network" in result.stderr:
        pytest.skip("npm cannot reach its registry")
    assert result.returncode == 0, result.stderr
    code = block("OpenAI SDK for Node.js", service, "javascript")
    (tmp_path / "hello.mjs").write_text(code)
    told = subprocess.run(
        ["node", "hello.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stderr
    assert holds_words(told.stdout)
