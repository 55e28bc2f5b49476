"""The Responses API's section of docs/clients.md, as its reader would run it."""

from __future__ import annotations

from pathlib import Path

from tests.clients.blocks import block, run
from tests.service import Service
from tests.test_docs import holds_words


def test_the_example_prints_two_answers(service: Service, tmp_path: Path) -> None:
    told = run(block("The Responses API", service), tmp_path)
    first, _, second = told.partition("\n")
    assert holds_words(first) and holds_words(second), told
