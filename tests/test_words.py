"""Phrases that are not plain technical English, and must not come back.

CONTRIBUTING.md has the rules and the glossary.
"""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PHRASES = (
    " tried on ",
    "answers of a form",
    "begin anew",
    "can be had",
    "cut off is gone on with",
    "ended by itself",
    "found by itself",
    "freely it draws",
    "from a clean machine to",
    "gives way",
    "go on with a",
    "gone on with",
    "held to the description",
    "held to their schema",
    "how freely",
    "is drawn with",
    "is no engine",
    "is to be had",
    "is told by its",
    "it is kept nowhere",
    "keeps whom out",
    "lets other machines in",
    "loads a second time",
    "made-up requests",
    "makes room: an idle",
    "may not use this service",
    "mend the body",
    "models that see",
    "nobody who was asked",
    "not done by this service",
    "not tried here",
    "of each answer",
    "on their way",
    "places held for good",
    "say how the service is",
    "start the service anew",
    "started anew",
    "starts anew",
    "that is looked after",
    "the front of the service",
    "vectors of length 1",
    "what a killed service left",
    "what it costs",
    "what the model is told",
    "what was cut off",
    "who gets in",
    "who waits",
)

_PAGES = ("README*.md", "CHANGELOG.md", "CONTRIBUTING.md", ".env.example", "models.toml.example")
_TREES = (("docs", "*.md"), ("deploy", "*"), ("vllm_obtain", "*.py"), ("vllm_obtain", "*.toml"))
_GLOSSARY_ROW = re.compile(r"^(\|[^|\n]*\|[^|\n]*\|)[^|\n]*\|$", re.MULTILINE)


@cache
def texts() -> tuple[Path, ...]:
    files = [path for pattern in _PAGES for path in ROOT.glob(pattern)]
    for folder, pattern in _TREES:
        files += [path for path in (ROOT / folder).rglob(pattern) if path.is_file()]
    return tuple(sorted(files))


@cache
def words(path: Path) -> str:
    """Return the text with single spaces, so that a phrase may span two lines."""
    text = path.read_text(encoding="utf-8")
    if path.name == "CONTRIBUTING.md":  # the last column of the glossary has words to avoid
        text = _GLOSSARY_ROW.sub(r"\1", text)
    text = re.sub(r"\n[ \t]*#(?:[ \t]|:)*", "\n", text)
    return re.sub(r"\s+", " ", text).lower()


def test_texts_are_found() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in texts()}
    assert {"README.md", "docs/models.md", "vllm_obtain/errors.py", ".env.example"} <= names


@pytest.mark.parametrize("phrase", PHRASES)
def test_phrase_is_not_used(phrase: str) -> None:
    found = [str(path.relative_to(ROOT)) for path in texts() if phrase in words(path)]
    assert not found, f"{phrase!r} is not plain English; see the glossary in CONTRIBUTING.md"
