"""The example for Anthropic's SDK does what docs/clients.md says."""

from __future__ import annotations

from pathlib import Path

from tests.clients.blocks import block, run
from tests.service import Service
from tests.test_docs import holds_words


def test_the_example_prints_both_answers(service: Service, tmp_path: Path) -> None:
    output = run(block("Claude Code and the Anthropic SDK", service), tmp_path)
    first, _, second = output.partition("\n")
    assert holds_words(first) and second.strip(), output
