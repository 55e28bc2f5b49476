"""ModelScope's own download command, after the installation of the service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.download.hubs import File, Hub
from tests.models.safetensors_files import write_folder
from vllm_obtain.models.scan import scan

COMMAND = (
    "from modelscope import snapshot_download; "
    "snapshot_download('qwen/Qwen2.5-0.5B-Instruct', cache_dir='./models/qwen-0.5b')"
)


def test_what_modelscope_downloads_is_found_by_its_folder(modelscope: Hub, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_folder(source)
    files = {path.name: File(path.read_bytes()) for path in source.iterdir()}
    modelscope.repositories["qwen/Qwen2.5-0.5B-Instruct"] = files
    subprocess.run(
        [sys.executable, "-c", COMMAND],
        cwd=tmp_path,
        env={**os.environ, "MODELSCOPE_ENDPOINT": modelscope.url},
        check=True,
        timeout=100,
    )
    (model,) = scan(tmp_path / "models")
    assert (model.name, model.format, model.problem) == ("qwen-0.5b", "safetensors", None)
