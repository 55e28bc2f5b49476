"""The examples of docs/clients.md, so that tests can run what is written there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.service import ROOT, Service

DOCUMENT = ROOT / "docs" / "clients.md"
# The address that the examples are written for.
URL = "http://127.0.0.1:8001"


def block(heading: str, service: Service | None = None, language: str = "python") -> str:
    """The first block of code below a heading.

    Args:
        heading: the text of the `##` line.
        service: whose address goes in place of the one in the example.
        language: of the block.
    """
    found = re.search(
        rf"^## {re.escape(heading)}\n(?P<section>.*?)(?=^## |\Z)",
        DOCUMENT.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert found, f"docs/clients.md has no section {heading!r}"
    code = re.search(rf"^```{language}\n(.*?)^```$", found["section"], re.MULTILINE | re.DOTALL)
    assert code, f"the section {heading!r} has no {language} block"
    assert URL.partition("//")[2] in code[1], f"the example of {heading!r} asks nobody"
    return code[1] if service is None else code[1].replace(URL, service.url)


def run(code: str, folder: Path) -> str:
    """Run an example in a process of its own, and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=150
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
