"""Models are loaded without running what they bring along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.mlx.model import write_model

pytestmark = pytest.mark.engine

pytest.importorskip("mlx.core")

PROGRAM = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n"
LOAD = (
    "import json, sys\n"
    "from vllm_obtain.engines.mlx.server.config import Config\n"
    "from vllm_obtain.engines.mlx.server.model_loader import load\n"
    "load(Config(sys.argv[1], '', device='cpu'))\n"
)


def test_code_in_a_model_folder_is_not_executed(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "own.py").write_text(PROGRAM)
    for name, more in (
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.T", "own.T"]}}),
        ("config.json", {"model_file": "own.py", "auto_map": {"AutoModel": "own.M"}}),
    ):
        said = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**said, **more}))
        command = [sys.executable, "-c", LOAD, str(folder)]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
        assert not (folder / "ran").exists()
    assert result.returncode != 0 and "own.py" in result.stderr
