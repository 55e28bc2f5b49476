"""The example for Anthropic's SDK does what docs/clients.md says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.service import ROOT, Service
from tests.test_docs import URL, blocks, holds_words


def test_the_example_prints_both_answers(service: Service, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "clients.md").read_text()
    _, _, section = text.partition("## Claude Code and the anthropic SDK\n")
    (code,) = blocks(section.partition("\n## ")[0], "python")
    assert URL in code
    done = subprocess.run(
        [sys.executable, "-c", code.replace(URL, service.url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first, _, second = done.stdout.partition("\n")
    assert holds_words(first) and second.strip(), done.stdout
