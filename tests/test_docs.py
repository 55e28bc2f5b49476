"""The documents say what is so: their commands are run, their names are looked up."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from tests.gateway.test_chat import MODEL, text_of, whole_text_of
from tests.server import test_entry_points
from tests.service import ROOT, Service
from vllm_obtain.config.settings import Settings
from vllm_obtain.download.library import load

pytestmark = pytest.mark.docs

# The address that the README's commands are written for.
URL = "http://127.0.0.1:8001"
# What curl prints after each answer of a block, so that they can be told apart.
END = "\x1e"
STRICT_CURL = f"curl() {{ command curl -sS --fail-with-body \"$@\" && printf '{END}'; }}\n"

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?<![\w./-])(?:vllm_obtain|tests|docs|src|bench|deploy)/[\w./-]*")
# Files that users write, in a folder of their own.
_USER_FILES = {"models.toml", "catalogue.toml"}
_ROOT_FILE = re.compile(r"[\w.-]+\.(?:py|md|toml|txt)|Makefile|\.env\.example")

ENGLISH = (ROOT / "README.md").read_text()
CHINESE = (ROOT / "README.zh-CN.md").read_text()
REFERENCE = {path.stem: path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md")}
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ALL = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))


def blocks(text: str, language: str) -> list[str]:
    return [block for found, block in _BLOCK.findall(text) if found == language]


def prose(text: str) -> str:
    return _BLOCK.sub("", text)


def tables(text: str) -> list[list[list[str]]]:
    """The cells of the rows of each table, without its head."""
    found = re.findall(r"(?:^\|.*\n)+", prose(text), re.MULTILINE)
    return [[_cells(row) for row in table.splitlines()[2:]] for table in found]


def table(title: str, text: str) -> list[list[str]]:
    """The table below a heading."""
    (section,) = re.findall(rf"^#+ {title}\n(.*?)(?=^#|\Z)", prose(text), re.M | re.S)
    (found,) = tables(section)
    return found


def spans(text: str) -> list[str]:
    return _SPAN.findall(text)


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


# --- Commands of the README and the reference -----------------------------------------------------

TYPED = [block for text in (ENGLISH, *REFERENCE.values()) for block in blocks(text, "bash")]
CURLS = [block for block in TYPED if "curl " in block]
UNLOADS = [block for block in CURLS if "/v1/models/unload" in block]
# Lines that another test runs, and names of models that are in the list of those to be pulled.
ELSEWHERE = {
    r'git clone "\$REPOSITORY" vllm-obtain && cd vllm-obtain': "tests/test_guides.py",
    r"make run": "tests/server/test_entry_points.py",
    r"source \.venv/bin/activate": "tests/server/test_entry_points.py",
    r"vllm-obtain pull (?P<name>[\w.-]+)": "tests/cli/test_commands.py",
    r'vllm-obtain run (?P<name>[\w.-]+) ".+"': "tests/cli/test_commands.py",
}


@pytest.fixture
def loaded_after(service: Service) -> Iterator[Service]:
    """The shared service; its model is loaded again at the end."""
    yield service
    service.json("/v1/models/load", {"model_name": MODEL})


def run(block: str, service: Service) -> list[tuple[str, str]]:
    """Type a block into a shell; its curl commands and what each of them printed."""
    # Otherwise the model may go on until its context is full.
    bounded = block.replace('{"messages": ', '{"max_tokens": 200, "messages": ')
    script = "set -e\n" + STRICT_CURL + bounded.replace(URL, service.url)
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=150)
    assert result.returncode == 0, result.stdout + result.stderr
    commands = re.split(r"^(?=curl )", block, flags=re.MULTILINE)[1:]
    *answers, rest = result.stdout.split(END)
    assert rest == ""
    return list(zip(commands, answers, strict=True))


def route_of(command: str) -> str:
    (route,) = re.findall(re.escape(URL) + r"(\S+)", command)
    return str(route)


def holds_words(text: str) -> bool:
    return len(re.findall(r"[A-Za-z]{2,}", text)) >= 2


def _chats(command: str, answer: str) -> None:
    if '"stream": true' in command:
        assert answer.rstrip().endswith("data: [DONE]")
        assert holds_words(text_of(answer.encode())), answer
    elif '"tools"' in command:
        (call,) = json.loads(answer)["choices"][0]["message"]["tool_calls"]
        assert list(json.loads(call["function"]["arguments"])) == ["city"]
    else:
        assert holds_words(whole_text_of(answer.encode())), answer


def _lists(_: str, answer: str) -> None:
    assert MODEL in {model["id"] for model in json.loads(answer)["data"]}


def _loads(_: str, answer: str) -> None:
    assert (json.loads(answer)["model"], json.loads(answer)["state"]) == (MODEL, "ready")


def _unloads(_: str, answer: str) -> None:
    assert (json.loads(answer)["model"], json.loads(answer)["state"]) == (MODEL, "stopped")


EXPECTED: dict[str, Callable[[str, str], None]] = {
    "/v1/chat/completions": _chats,
    "/v1/models": _lists,
    "/v1/models/load": _loads,
    "/v1/models/unload": _unloads,
}


@pytest.mark.parametrize("block", CURLS, ids=lambda b: route_of(b.splitlines()[0]))
def test_each_curl_gives_what_it_says(block: str, loaded_after: Service) -> None:
    for command, answer in run(block, loaded_after):
        EXPECTED[route_of(command)](command, answer)


def test_a_chat_loads_what_was_unloaded(loaded_after: Service) -> None:
    (block,) = UNLOADS
    run(block, loaded_after)
    assert not any(engine["pid"] for engine in loaded_after.status()["engines"])
    assert loaded_after.chat(model=MODEL)["usage"]["completion_tokens"] > 0


def test_each_other_command_is_run_by_a_test() -> None:
    lines = [line for block in TYPED if block not in CURLS for line in block.splitlines()]
    assert lines
    for line in lines:
        found = [(re.fullmatch(form, line), test) for form, test in ELSEWHERE.items()]
        ((match, test),) = [each for each in found if each[0]]
        assert (ROOT / test).exists()
        name = match.groupdict().get("name") if match else None
        assert name is None or name in load().models, line


@pytest.mark.parametrize("block", blocks(ENGLISH, "python"))
def test_each_python_of_the_readme_prints_an_answer(
    block: str, service: Service, tmp_path: Path
) -> None:
    assert URL in block
    result = subprocess.run(
        [sys.executable, "-c", block.replace(URL, service.url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert result.returncode == 0, result.stderr
    assert holds_words(result.stdout), result.stdout


def started_commands() -> list[list[str]]:
    """The commands that the tests of the entry points start, from the program's name on."""
    return [_from_the_program(command) for command in test_entry_points.COMMANDS.values()]


def _from_the_program(words: list[str]) -> list[str]:
    name, *rest = [word for word in words if word not in ("python", "-m")]
    return [Path(name).name, *rest]


def _is_started(words: list[str]) -> bool:
    """Whether a tested command has the same program and last word, and has these options."""
    name, options = words[0], {word for word in words if word.startswith("--")}
    return any(
        name == known[0] and words[-1] in known and options <= set(known)
        for known in started_commands()
    )


STARTS = table("Ways to start the service", REFERENCE["cli"])


@pytest.mark.parametrize("row", STARTS, ids=lambda row: row[0].strip("`"))
def test_each_way_to_start_is_one_that_is_tested(row: list[str]) -> None:
    (command,) = spans(row[0])
    *before, last = [shlex.split(part) for part in command.split("&&")]
    assert all(words[:2] == ["pip", "install"] for words in before)
    assert all((ROOT / words[-1]).exists() for words in before)
    if last[0] == "make":
        assert last[1] in make_targets()
        return
    words = _from_the_program(last)
    assert _is_started(words)
    for more in spans(row[1]):
        if more.startswith("--"):
            assert _is_started([*words, *more.split()])


def make_targets() -> set[str]:
    return set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@ALL
def test_each_make_command_has_a_target(document: Path) -> None:
    text = document.read_text()
    code = "\n".join([*(block for _, block in _BLOCK.findall(text)), *spans(prose(text))])
    assert set(re.findall(r"^make (\w+)", code, re.MULTILINE)) <= make_targets()


def test_the_readme_starts_with_make_run() -> None:
    assert blocks(ENGLISH, "bash")[0].endswith("make run\n")


def test_the_readme_is_short() -> None:
    assert len(ENGLISH.splitlines()) <= 180
    assert (ROOT / "docs" / "images" / "terminal.svg").stat().st_size < 60_000


# --- The reference ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "reference_docs.py"))


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_the_reference_is_what_the_code_gives(name: str, script: dict[str, Any]) -> None:
    path = ROOT / "docs" / "reference" / f"{name}.md"
    assert script["page"](path) == REFERENCE[name], "run: python scripts/reference_docs.py"


def test_each_generated_part_is_in_a_page(script: dict[str, Any]) -> None:
    there = re.findall(r"<!-- generated: (\w+) -->", "".join(REFERENCE.values()))
    results = [path.stem for path in (ROOT / "bench" / "results").glob("*.md")]
    assert sorted(there) == sorted([*script["PARTS"], *results])


def test_each_setting_of_the_example_is_a_default() -> None:
    told = dotenv_values(ROOT / ".env.example")
    assert sorted(told) == sorted(name.upper() for name in Settings.model_fields)
    defaults = Settings()
    for name, value in told.items():
        default = getattr(defaults, name.lower())
        assert getattr(Settings.load({name: value or ""}), name.lower()) == default, name
        assert bool(value) == (default != ""), name


def test_each_metric_of_a_service_is_described(service: Service) -> None:
    text = service.request("/metrics")[2].decode()
    served = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    described = {row[0].strip("`") for found in tables(REFERENCE["metrics"]) for row in found}
    gpus = {name for name in served if re.match(r"vllm_obtain_system_gpu\d+_", name)}
    assert served - gpus and served - gpus <= described


# --- The Chinese README -----------------------------------------------------------------------


def test_the_chinese_readme_has_the_same_blocks_in_the_same_sections() -> None:
    assert _BLOCK.findall(CHINESE) == _BLOCK.findall(ENGLISH)
    assert outline(CHINESE) == outline(ENGLISH)


def outline(text: str) -> list[str]:
    """Headings by level, blocks, tables, pictures and lists, in their order."""
    return re.findall(r"^(?:#+ |```|\|---|!\[|- )", _BLOCK.sub("```", text), re.MULTILINE)


def test_the_chinese_tables_have_the_same_rows() -> None:
    pairs = list(zip(tables(ENGLISH), tables(CHINESE), strict=True))
    assert pairs
    for english, chinese in pairs:
        assert [facts(row) for row in chinese] == [facts(row) for row in english]


def facts(row: list[str]) -> list[tuple[list[str], list[str]]]:
    """What a translation leaves alone: code and numbers, cell by cell."""
    return [(sorted(spans(cell)), sorted(re.findall(r"\d+(?:[.,]\d+)*", cell))) for cell in row]


def test_the_chinese_text_names_the_same_code() -> None:
    assert sorted(spans(prose(CHINESE))) == sorted(spans(prose(ENGLISH)))


# --- What documents point at ------------------------------------------------------------------


@ALL
def test_each_path_named_exists(document: Path) -> None:
    text = document.read_text()
    code = [*(block for _, block in _BLOCK.findall(text)), *spans(prose(text))]
    named = {path for part in code for path in _PATH.findall(part)}
    named |= {part for part in code if _ROOT_FILE.fullmatch(part)} - _USER_FILES
    roots = (ROOT, ROOT / "vllm_obtain")  # architecture.md and decisions/ leave the package out
    assert [path for path in sorted(named) if not any((r / path).exists() for r in roots)] == []


@ALL
def test_each_relative_link_leads_to_a_file(document: Path) -> None:
    links = [link.partition("#")[0] for link in _LINK.findall(prose(document.read_text()))]
    relative = [link for link in links if link and "://" not in link]
    assert [link for link in relative if not (document.parent / link).exists()] == []


def test_the_readmes_lead_to_each_other() -> None:
    assert "README.zh-CN.md" in _LINK.findall(ENGLISH)
    assert "README.md" in _LINK.findall(CHINESE)
