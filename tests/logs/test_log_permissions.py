"""Permissions of log files: the group may read them, others may not, whatever the umask is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_obtain.config.settings import Settings
from vllm_obtain.logs import setup


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_log_files_are_not_readable_by_others(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    try:
        setup.configure(Settings.load({"LOG_DIR": str(folder)}), "gateway", console=False)
        setup.get_logger("vllm_obtain.x").error("one")
        (folder / "app.log").unlink()
        setup.get_logger("vllm_obtain.x").error("two")  # creates the file again
        modes = {file.name: oct(file.stat().st_mode & 0o777) for file in folder.glob("*.log")}
        assert {modes["app.log"], modes["errors.log"]} == {"0o640"}
    finally:
        setup.close()
