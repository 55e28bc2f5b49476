"""Backups as their owner makes them: what is kept, what is not copied twice, what comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.gguf_files import write_gguf
from tests.service import ROOT
from vllm_obtain.backup import manifest
from vllm_obtain.backup.manifest import BackupError

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What an owner has."""
    made = tmp_path / "home"
    models = made / "models"
    blobs = models / "models--o--n" / "blobs"
    snapshot = blobs.parent / "snapshots" / "main"
    for folder in (blobs, snapshot, models / ".fetching-x", made / "logs"):
        folder.mkdir(parents=True)
    write_gguf(models / "alpha.gguf")
    write_gguf(blobs / "b1")
    (snapshot / "n.gguf").symlink_to("../../blobs/b1")
    (models / "elsewhere.gguf").symlink_to("/etc/hostname")
    (models / ".fetching-x" / "half").write_text("half")
    (models / "catalogue.toml").write_text("")
    (made / "logs" / "app.log").write_text("a line\n")
    (made / ".env").write_text("PORT=1\n")
    (made / "models.toml").write_text("[alpha]\npin = true\n")
    (made / "keys.json").write_text('{"keys": []}')
    (made / "keys.json").chmod(0o600)
    return made


def run(where: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Type a command in a folder."""
    where.mkdir(exist_ok=True)
    unset = {name: value for name, value in os.environ.items() if name not in ("PORT", "LOG_DIR")}
    command = [sys.executable, "-m", "vllm_obtain", *words]
    env = {**unset, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == code, result.stdout + result.stderr
    return result


def outcome(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_backup_can_be_restored_on_another_machine(home: Path, tmp_path: Path) -> None:
    kept, new = tmp_path / "kept", tmp_path / "new"
    made = outcome(run(home, "backup", str(kept), "--json"))
    assert made["copied"] == made["files"] == 8
    (left_out,) = made["skipped"]
    assert "elsewhere.gguf" in left_out
    assert kept.stat().st_mode & 0o777 == 0o700
    back = outcome(run(new, "restore", str(kept), "--logs", "--json"))
    assert back["copied"] == back["files"] == 8
    before = files(home)
    for name in ("models/elsewhere.gguf", "models/.fetching-x/half"):
        before.pop(name)
    assert files(new) == before
    assert (new / "keys.json").stat().st_mode & 0o777 == 0o600
    assert (new / "models/models--o--n/snapshots/main/n.gguf").is_symlink()
    assert outcome(run(new, "restore", str(kept), "--json"))["copied"] == 0, "it is all here"


def test_only_changed_files_are_copied_again(home: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    run(home, "backup", str(kept))
    assert "0 (0.0 MB) copied" in run(home, "backup", str(kept)).stdout
    (home / "logs" / "app.log").write_text("a line\nanother\n")
    (home / "models" / "alpha.gguf").unlink()
    assert outcome(run(home, "backup", str(kept), "--json"))["copied"] == 1
    assert (kept / "models" / "alpha.gguf").is_file(), "what is gone here is not thrown away there"
    found = manifest.read(kept)
    assert found is not None
    names = {each.backup_path for each in found.files}
    assert "models/alpha.gguf" not in names and "logs/app.log" in names


def test_parts_can_be_left_out(home: Path, tmp_path: Path) -> None:
    kept, new = tmp_path / "kept", tmp_path / "new"
    run(home, "backup", str(kept), "--no-models", "--no-logs")
    there = sorted(path.name for path in kept.iterdir())
    assert there == ["backup.json", "env", "keys", "model-settings", "names"]
    run(new, "restore", str(kept))
    assert (new / "models" / "catalogue.toml").is_file()


def test_a_restore_overwrites_no_files(home: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    run(home, "backup", str(kept))
    (home / ".env").write_text("PORT=2\n")
    refused = run(home, "restore", str(kept), code=1)
    assert "--force" in refused.stderr and ".env" in refused.stderr
    assert (home / ".env").read_text() == "PORT=2\n"
    run(home, "restore", str(kept), "--force")
    assert (home / ".env").read_text() == "PORT=1\n"
    assert (home / ".env.before-restore").read_text() == "PORT=2\n"


@pytest.mark.slow
def test_a_damaged_backup_is_detected(home: Path, tmp_path: Path) -> None:
    kept, new = tmp_path / "kept", tmp_path / "new"
    assert "There is no backup" in run(home, "restore", str(kept), code=1).stderr
    run(home, "backup", str(kept))
    spoiled = bytearray((kept / "models" / "alpha.gguf").read_bytes())
    spoiled[-1] ^= 1
    (kept / "models" / "alpha.gguf").write_bytes(spoiled)
    assert "is damaged" in run(new, "restore", str(kept), code=1).stderr
    assert not (new / "models" / "alpha.gguf").exists()
    (kept / "backup.json").write_text("{")
    assert "not a valid backup manifest" in run(new, "restore", str(kept), code=1).stderr


@pytest.mark.parametrize(
    ("path", "link"), [("../x", ""), ("/x", ""), ("a/../../x", ""), ("a", "../../x"), ("a", "/x")]
)
def test_a_manifest_cannot_list_files_outside_the_backup(
    tmp_path: Path, path: str, link: str
) -> None:
    one = manifest.Copied("models", path, 1, 1, 0o644, "x", link)
    manifest.write(tmp_path, manifest.BackupManifest(manifest.VERSION, 1, "0", [one]))
    with pytest.raises(BackupError, match="which is outside the backup"):
        manifest.read(tmp_path)
