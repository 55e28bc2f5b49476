"""The Responses API section of docs/clients.md, as its reader would run it."""

from __future__ import annotations

from pathlib import Path

from tests.clients.blocks import block, run
from tests.service import Service
from tests.test_docs import holds_words


def test_the_example_prints_two_answers(service: Service, tmp_path: Path) -> None:
    output = run(block("Responses API", service), tmp_path)
    first, _, second = output.partition("\n")
    assert holds_words(first) and holds_words(second), output
