"""docs/compatibility.md says what the engines' tables say."""

from __future__ import annotations

import runpy

from tests.service import ROOT


def test_the_table_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "compatibility.py"))
    page = (ROOT / "docs" / "compatibility.md").read_text()
    table = page.partition(script["BEGIN"])[2].partition(script["END"])[0]
    assert [line for line in table.splitlines() if line] == script["rows"]()
    assert set(script["NOTES"]) <= {row.split("`")[1] for row in script["rows"]()[2:]}
