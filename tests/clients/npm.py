"""Programs of npm's registry, installed once and kept between runs of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

NODE = bool(shutil.which("node") and shutil.which("npm"))
# Outside the repository, since a program has hundreds of MB.
CACHE = Path(tempfile.gettempdir()) / f"vllm-obtain-npm-{os.getuid()}"
NO_ANSWER = 20  # seconds


def program(package: str, name: str) -> Path:
    """Install the newest version of a package, or use the one that is here if npm is silent.

    Args:
        package: the package's name.
        name: of the program in it.
    """
    if not NODE:
        pytest.skip("node and npm are not installed")
    CACHE.mkdir(mode=0o700, exist_ok=True)
    assert CACHE.stat().st_uid == os.getuid(), f"{CACHE} belongs to somebody else"
    label = package.replace("/", "+")
    version = _newest_version(package)
    installed = sorted(CACHE.glob(f"{label}@*"), key=lambda folder: folder.stat().st_mtime)
    if version is None and not installed:
        pytest.skip("npm's registry does not answer")
    folder = CACHE / f"{label}@{version}" if version else installed[-1]
    if not folder.exists():
        _install(f"{package}@{version}", folder)
        for old in installed:
            shutil.rmtree(old, ignore_errors=True)
    return folder / "node_modules" / ".bin" / name


def _newest_version(package: str) -> str | None:
    command = ["npm", "view", package, "version", "--fetch-retries=0"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=NO_ANSWER)
    except subprocess.TimeoutExpired:
        return None
    return result.stdout.strip() or None


def _install(package: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as new:
        options = ["--no-audit", "--no-fund", "--ignore-scripts"]
        command = ["npm", "install", "--prefix", new, *options, package]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if result.returncode != 0:
            pytest.skip(f"npm cannot install {package}: {result.stderr[-300:]}")
        # What npm runs only where it is allowed to: puts the program for this machine in place.
        script = Path(new) / "node_modules" / package.rpartition("@")[0] / "install.cjs"
        if script.exists():
            subprocess.run(["node", str(script)], check=True, capture_output=True, timeout=60)
        complete = Path(new) / "package"
        complete.mkdir()
        (Path(new) / "node_modules").rename(complete / "node_modules")
        if not folder.exists():  # another worker may have been faster
            complete.rename(folder)
