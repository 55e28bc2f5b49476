"""The Responses API's section of docs/clients.md, as its reader would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.service import ROOT, Service
from tests.test_docs import URL, blocks, holds_words


def test_the_example_prints_two_answers(service: Service, tmp_path: Path) -> None:
    _, _, section = (ROOT / "docs" / "clients.md").read_text().partition("## The Responses API\n")
    (example,) = blocks(section.partition("\n## ")[0], "python")
    assert URL in example
    done = subprocess.run(
        [sys.executable, "-c", example.replace(URL, service.url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first, _, second = done.stdout.partition("\n")
    assert holds_words(first) and holds_words(second), done.stdout
