"""Each `bash` block in docs/ is run, here or by another test, or is marked with a reason."""

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
from vllm_obtain.config.settings import Settings
from vllm_obtain.doctor.capacity import HIGH, MINIMUM, RECOMMENDED, capacity
from vllm_obtain.download.library import load
from vllm_obtain.hardware.machine import GPU, DeviceName

pytestmark = pytest.mark.docs

# The address that the commands are written for.
URL = "http://127.0.0.1:8001"
# The marker of a block that no test runs. It stands right before the block and gives the reason.
NOT_RUN = re.compile(r"^ *<!-- not run: (?:(?!-->).)+? -->\n+\Z", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^( *)```bash\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# Guides whose blocks have a test of their own.
OF_THEIR_OWN = {"operations.md": "tests/deploy/test_operations.py"}
# Blocks that another test runs.
ELSEWHERE = {"vllm-obtain stop\n": "tests/server/test_draining.py"}
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Block:
    """A block of commands in a guide.

    Args:
        document: the guide's file name.
        code: the commands.
        before: the guide's text up to the block.
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
# A block that several guides share is run once.
RUN = list({block.code: block for block in ALL if block.is_run}.values())


@pytest.fixture
def folder(tmp_path: Path, service: Service) -> Path:
    """A folder as the guides assume it: its settings and the model."""
    lines = (f"PORT={service.port}", f"MODELS_DIR={ROOT / 'models'}")
    (tmp_path / ".env").write_text("\n".join((*lines, f"LOG_DIR={service.folder / 'logs'}\n")))
    return tmp_path


@pytest.mark.parametrize("block", RUN, ids=str)
def test_each_unmarked_block_works(block: Block, folder: Path, service: Service) -> None:
    variables = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "REPOSITORY": f"file://{ROOT}",
        "KEY": "any",
        "CONFIG_KEY_FILE": str(folder / "config.key"),
        "DEVICE_TYPE": "cpu",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    script = "set -e -o pipefail\n" + block.code.replace(URL, service.url)
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, script + result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_each_block_is_run_or_marked() -> None:
    assert len(RUN) > 8
    marked = [block for block in ALL if NOT_RUN.search(block.before[-400:])]
    ran = {block.code for block in RUN}
    assert all(block.code in ran | ELSEWHERE.keys() or block in marked for block in ALL)
    for name in (*OF_THEIR_OWN.values(), *ELSEWHERE.values()):
        assert (ROOT / name).exists()
    for code in ELSEWHERE:
        assert any(block.code == code for block in ALL), code


def test_a_marker_applies_only_to_the_block_right_after_it() -> None:
    assert not Block("x", "a\n", "<!-- not run: it needs a Mac -->\n\n").is_run
    assert not Block("x", "a\n", "text\n\n  <!-- not run: it takes\nminutes -->\n").is_run
    assert Block("x", "a\n", "<!-- not run: it needs a Mac -->\n\nThis one does not:\n\n").is_run
    assert Block("x", "a\n", "<!-- not run: a Mac -->\n\n<!-- another comment -->\n\n").is_run
    assert Block("x", "a\n", "<!-- not run: -->\n\n").is_run


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
