"""docs/security.md names what is there: each threat has tests, and these exist."""

from __future__ import annotations

import ast
import re

import pytest

from tests.service import ROOT
from tests.test_docs import tables

*_, ROWS = [found for found in tables((ROOT / "docs" / "security.md").read_text()) if found]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_threat_names_tests_that_exist(row: list[str]) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[2])
    assert row[1] and named
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text())
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        names = [node.name for node in ast.walk(tree) if isinstance(node, kinds)]
        assert name.startswith("test_") and name in names, f"{file} has no {name}"
