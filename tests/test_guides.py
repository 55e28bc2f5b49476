"""Each command in docs/ is run, here or by a test that is named, or says that it was not tried."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engines.machines import apple, linux
from tests.service import ROOT, Service
from vllm_obtain.doctor.capacity import HIGH, MINIMUM, RECOMMENDED, capacity
from vllm_obtain.fetching.known import load
from vllm_obtain.hardware import GPU, DeviceName
from vllm_obtain.settings import Settings

# The address that the commands are written for.
URL = "http://127.0.0.1:8001"
NOT_RUN = re.compile(
    r"^ *\*Not (?:tried here|run by a test)(?: as it stands)?: .+?\*\n+\Z", re.M | re.S
)
_BLOCK = re.compile(r"^( *)```bash\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# All of its commands are held by a test of its own, which has the reason for each that is not run.
OF_THEIR_OWN = {"operations.md": "tests/deploy/test_operations.py"}
# Blocks that another test runs.
ELSEWHERE = {"vllm-obtain stop\n": "tests/test_draining.py"}
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Block:
    """A block of commands.

    Args:
        document: where it stands.
        code: what is typed.
        before: the text in front of it.
    """

    document: str
    code: str
    before: str

    @property
    def is_run(self) -> bool:
        return not NOT_RUN.search(self.before[-400:]) and self.code not in ELSEWHERE

    def __str__(self) -> str:
        return f"{self.document}: {self.code.splitlines()[0][:40]}"


def blocks() -> Iterator[Block]:
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text()
        for found in _BLOCK.finditer(text):
            if path.name not in OF_THEIR_OWN:
                indent, code = found[1], found[2]
                yield Block(path.name, code.replace(f"\n{indent}", "\n"), text[: found.start()])


ALL = list(blocks())
# What stands in several guides is run once.
RUN = list({block.code: block for block in ALL if block.is_run}.values())


@pytest.fixture
def folder(tmp_path: Path, service: Service) -> Path:
    """A folder as those of the guides: what is set in it, and the model."""
    lines = (f"PORT={service.port}", f"MODELS_DIR={ROOT / 'models'}")
    (tmp_path / ".env").write_text("\n".join((*lines, f"LOG_DIR={service.folder / 'logs'}\n")))
    return tmp_path


@pytest.mark.parametrize("block", RUN, ids=str)
def test_each_command_that_is_not_marked_works(
    block: Block, folder: Path, service: Service
) -> None:
    given = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "REPOSITORY": f"file://{ROOT}",
        "KEY": "any",
        "CONFIG_KEY_FILE": str(folder / "config.key"),
        "DEVICE_TYPE": "cpu",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    script = "set -e -o pipefail\n" + block.code.replace(URL, service.url)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, script + done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_not_run_says_so_or_is_run_elsewhere() -> None:
    assert len(RUN) > 8
    marked = [block for block in ALL if NOT_RUN.search(block.before[-400:])]
    ran = {block.code for block in RUN}
    assert all(block.code in ran | ELSEWHERE.keys() or block in marked for block in ALL)
    for name in (*OF_THEIR_OWN.values(), *ELSEWHERE.values()):
        assert (ROOT / name).exists()
    for code in ELSEWHERE:
        assert any(block.code == code for block in ALL), code


def test_a_mark_counts_right_before_its_block_only() -> None:
    assert not Block("x", "a\n", "*Not tried here: it needs a Mac.*\n\n").is_run
    assert not Block("x", "a\n", "text\n\n*Not run by a test: it takes\nminutes.*\n\n").is_run
    assert Block("x", "a\n", "*Not tried here: it needs a Mac.*\n\nBut this does not:\n\n").is_run
    assert Block("x", "a\n", "*Tried here: often.*\n\n").is_run


def test_the_names_that_guides_pull_are_known() -> None:
    known = load().models
    code = "\n".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    pulled = set(re.findall(r"vllm-obtain pull ([a-z0-9.-]+)(?=[ `\n])", code))
    assert len(pulled) >= 2 and pulled <= set(known)


@pytest.mark.parametrize(
    ("guide", "device"), [("linux-cpu", "cpu"), ("linux-nvidia", "cuda"), ("mac-studio", "mps")]
)
def test_the_classes_of_the_guides_are_those_of_the_doctor(guide: str, device: DeviceName) -> None:
    rows = re.findall(
        r"^\| ([a-z-]+) \| .*?(\d+) GB.*?\|", (ROOT / f"docs/{guide}.md").read_text(), re.M
    )
    assert [name for name, _ in rows] == [MINIMUM, RECOMMENDED, HIGH]
    gpus = {"cuda": lambda gib: (GPU("card", gib * 2**30),), "cpu": lambda _: ()}
    for name, gib in rows:
        size = int(gib)
        host = apple("M3 Ultra", size, 8, 8)
        if device != "mps":
            host = linux(size, 8, *gpus[device](size))
        assert capacity(host.machine, Settings()).level == name, (guide, name)


def test_the_guides_are_linked_from_the_readmes() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text()
        for guide in ("mac-studio", "linux-nvidia", "linux-cpu", "clients"):
            assert f"(docs/{guide}.md)" in text, name
