"""Downloads and verifies the files of a plan; interrupted transfers are retried and resumed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from vllm_obtain.download import manifest as manifests
from vllm_obtain.download.file_selection import RepoFile
from vllm_obtain.download.hubs.base import Hub, Interrupted
from vllm_obtain.download.install import free_space
from vllm_obtain.download.manifest import FileRecord
from vllm_obtain.download.staging import DownloadPlan, StagingDir
from vllm_obtain.errors import FetchFailed, InsufficientStorage
from vllm_obtain.models.progress import Progress, ProgressCallback, Stage

# Consecutive attempts without progress before the download fails.
_MAX_FAILURES: Final = 8
# Seconds before the first retry; the delay doubles up to the maximum.
_FIRST_DELAY, _MAX_DELAY = 0.25, 15.0
# Downloads of one file that fail verification before the download fails.
_MAX_CORRUPT: Final = 3
_REPORT_INTERVAL: Final = 0.25  # seconds
_RATE_WINDOW: Final = 10.0  # seconds over which the transfer rate is averaged
# Disk space to leave free, for logs and other programs.
_RESERVE: Final = 64 * 1024 * 1024


class FileTransfers:
    """Transfers the files of one model.

    Args:
        hub: the source.
        plan: the files to transfer.
        staging: the staging folder.
        name: the model's name.
        on_progress: progress callback, also called from a thread.
    """

    def __init__(
        self,
        hub: Hub,
        plan: DownloadPlan,
        staging: StagingDir,
        name: str,
        on_progress: ProgressCallback,
    ) -> None:
        self._hub, self._plan, self._staging = hub, plan, staging
        self._name, self._on_progress = name, on_progress
        self._stage: Stage = "downloading"
        self._detail = ""
        self._rate = TransferRate()

    def all(self) -> list[FileRecord]:
        """Transfer and verify all files.

        Returns:
            The files with their checksums.

        Raises:
            InsufficientStorage: the disk is too full; nothing was downloaded.
            FetchFailed: a transfer failed repeatedly, or a file failed verification repeatedly.
        """
        self._require_space()
        with self._periodic_reports():
            return [self._obtain(piece) for piece in self._plan.pieces]

    def _require_space(self) -> None:
        needed = self._plan.total - min(self._staging.done, self._plan.total)
        # Deletes previous versions of models if their space is needed.
        free = free_space(self._staging.folder.parent, needed + _RESERVE, self._name)
        if needed + _RESERVE > free:
            raise InsufficientStorage(
                f"'{self._name}' has {_gb(self._plan.total)}, of which {_gb(needed)} remain to be "
                f"downloaded, but {self._staging.folder.parent} has only {_gb(free)} free. Free "
                f"{_gb(needed + _RESERVE - free)} more, or set MODELS_DIR to another disk.",
                retry=False,
            )

    def _obtain(self, piece: RepoFile) -> FileRecord:
        """Download a file until it passes verification."""
        target = self._staging.files / piece.path
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_MAX_CORRUPT):
            if not target.is_file():
                self._transfer(piece, target)
            self._stage, self._detail = "checking", piece.path
            fault, record = _verify(piece, target)
            if not fault:
                self._stage = "downloading"
                return record
            target.unlink()
            self._detail = f"{piece.path} {fault}; downloading it again"
            self._report()
        raise FetchFailed(
            f"{piece.path} of {self._plan.source} failed verification {_MAX_CORRUPT} times: it "
            f"{fault}. A proxy may change the file. Try another source (MODEL_SOURCE).",
        )

    def _transfer(self, piece: RepoFile, target: Path) -> None:
        """Download a file, with retries; attempts that made progress do not count as failures."""
        self._stage, self._detail = "downloading", piece.path
        failures = 0
        while True:
            before = self._staging.done
            try:
                self._hub.get(piece, target)
                return
            except Interrupted as error:
                failures = 0 if self._staging.done > before else failures + 1
                if failures >= _MAX_FAILURES:
                    raise FetchFailed(
                        f"The download of {piece.path} from {self._plan.source} failed {failures} "
                        f"times in a row ({error}). Try again later; partial files are kept.",
                        retry_after=60,
                    ) from error
                self._detail = f"{piece.path}: {error}; resuming"
                delay = min(_FIRST_DELAY * 2 ** (failures - 1), _MAX_DELAY) if failures else 0.05
                time.sleep(delay)

    def _report(self) -> None:
        total = self._plan.total
        done = min(self._staging.done, total) if total else self._staging.done
        rate, left = self._rate.at(done, total)
        source = str(self._plan.source)
        self._on_progress(
            Progress(self._stage, self._name, source, done, total, rate, left, self._detail)
        )

    @contextlib.contextmanager
    def _periodic_reports(self) -> Iterator[None]:
        """Report progress at intervals; measured on disk, since a client library may transfer."""
        stop = threading.Event()

        def report() -> None:
            while not stop.wait(_REPORT_INTERVAL):
                self._report()

        thread = threading.Thread(target=report, daemon=True)
        self._report()
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        self._report()


class TransferRate:
    """The transfer rate over the last seconds.

    Args:
        clock: monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def at(self, done: int, total: int) -> tuple[float, float | None]:
        """Record the bytes on disk.

        Returns:
            Bytes per second, and the estimated seconds to completion (None if unknown).
        """
        now = self._clock()
        if self._samples and done < self._samples[-1][1]:
            self._samples.clear()  # a corrupt file was deleted; the rate must not become negative
        self._samples.append((now, done))
        while now - self._samples[0][0] > _RATE_WINDOW and len(self._samples) > 2:
            self._samples.popleft()
        start, before = self._samples[0]
        rate = (done - before) / (now - start) if now > start else 0.0
        left = (total - done) / rate if rate > 0 and total else None
        return rate, left


def _verify(piece: RepoFile, target: Path) -> tuple[str, FileRecord]:
    """Compare a file with the size and checksums of the hub.

    Returns:
        What is wrong with the file, empty if nothing is, and its record.
    """
    size, digest = target.stat().st_size, manifests.digest(target)
    record = FileRecord(piece.path, size, digest, piece.blob)
    if piece.size is not None and size != piece.size:
        return f"has {size:,} bytes instead of {piece.size:,}", record
    if piece.sha256 and digest != piece.sha256:
        return "has a wrong checksum", record
    if piece.blob and manifests.blob(target) != piece.blob:
        return "has a wrong checksum", record
    return "", record


def _gb(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
