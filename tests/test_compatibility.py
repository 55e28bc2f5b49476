"""The table of docs/compatibility.md matches the engine adapters."""

from __future__ import annotations

import runpy

import pytest

from tests.service import ROOT

pytestmark = pytest.mark.docs


def test_the_table_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "compatibility.py"))
    page = (ROOT / "docs" / "compatibility.md").read_text()
    table = page.partition(script["BEGIN"])[2].partition(script["END"])[0]
    assert [line for line in table.splitlines() if line] == script["rows"]()
    assert set(script["NOTES"]) <= {row.split("`")[1] for row in script["rows"]()[2:]}
