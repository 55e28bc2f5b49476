"""The architecture page and the decisions match the tree, and the repository's forms are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.service import ROOT

PACKAGE = ROOT / "vllm_obtain"
PAGE = ROOT / "docs" / "architecture.md"
FOLDER = ROOT / "docs" / "decisions"
DECISIONS = sorted(FOLDER.glob("[0-9]*.md"))
GITHUB = ROOT / ".github"

_FILE = re.compile(r"`([\w./-]+/[\w./-]*)`")


def named_paths(page: Path) -> set[str]:
    """The paths below vllm_obtain/ that a page names; others are checked by tests/test_docs.py."""
    paths = {path for path in _FILE.findall(page.read_text()) if re.search(r"(\.\w+|/)$", path)}
    return {path for path in paths if not (ROOT / path).exists() and not path.startswith("/")}


@pytest.mark.parametrize("page", [PAGE, *DECISIONS], ids=lambda page: page.stem)
def test_each_path_below_the_package_exists(page: Path) -> None:
    assert [path for path in sorted(named_paths(page)) if not (PACKAGE / path).exists()] == []


def test_the_architecture_fits_on_150_lines() -> None:
    assert len(PAGE.read_text().splitlines()) <= 150


def test_every_package_is_in_the_architecture() -> None:
    packages = {path.parent.relative_to(PACKAGE) for path in PACKAGE.glob("*/__init__.py")}
    text = PAGE.read_text()
    assert [f"{path}/" for path in sorted(packages) if f"`{path}/`" not in text] == []


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    assert [int(page.name[:2]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    listed = re.findall(r"^- \[(.+)\]\((\d\d-.+\.md)\)$", (FOLDER / "README.md").read_text(), re.M)
    titles = {page.name: page.read_text().splitlines()[0].removeprefix("# ") for page in DECISIONS}
    assert {name: title for title, name in listed} == titles
    assert len(listed) == len(titles)


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_one_form_and_fits_on_a_screen(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert len(lines) <= 45
    assert lines[0].startswith(f"# {int(page.name[:2])}. ")
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == ["## Context", "## Decision", "## Consequences"]


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_issue_forms_have_what_github_asks_for(name: str) -> None:
    form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)


def test_the_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())
    runs = {
        job["runs-on"]: [step["run"] for step in job["steps"] if "run" in step]
        for job in workflow["jobs"].values()
    }
    assert runs["ubuntu-latest"][-1] == ".ci/run" and (ROOT / ".ci" / "run").exists()
    assert runs["macos-latest"] == ["make check test-fast"]


def test_the_commit_hooks_use_the_ruff_of_make_check() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert all(hook["entry"].startswith(".venv/bin/ruff ") for hook in local["hooks"])
