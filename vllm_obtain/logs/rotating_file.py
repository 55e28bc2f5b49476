"""Log file that several processes write to, with daily rotation and deletion by age.

ConcurrentTimedRotatingFileHandler does rotation and locking. This module adds deletion by age and
the handling of write errors.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from concurrent_log_handler import ConcurrentTimedRotatingFileHandler

_ROTATED = re.compile(r"\.log\.(\d{4}-\d{2}-\d{2})(\.\d+)?$")
_REPEAT_SECONDS = 3600.0
# Permissions of log files, whatever the umask is: they name models, clients and their requests.
MODE = 0o640


def log_day(name: str) -> date | None:
    """Return the day of a rotated log file, such as `app.log.2026-11-02`; None for other names."""
    match = _ROTATED.search(name)
    if match is None:
        return None
    try:
        return date.fromisoformat(match[1])
    except ValueError:
        return None


def expired(names: Iterable[str], today: date, days: int) -> list[str]:
    """List the rotated log files of one log that exceed the retention time.

    The age counts from the newest file, or from today if that is earlier: a clock that jumps ahead
    must not delete everything.

    Args:
        names: file names in the log's folder; other names never expire.
        today: the current day in UTC.
        days: number of days to keep besides today.
    """
    dated = {name: day for name in names if (day := log_day(name)) is not None}
    if not dated:
        return []
    # The day after the newest file is the day of the file that is being written.
    reference = min(today, max(dated.values()) + timedelta(days=1))
    return [name for name, day in dated.items() if day < reference - timedelta(days=days)]


class WriteErrorReporter:
    """Reports write errors of log files on stderr, at most once an hour."""

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def report(self, path: str, error: BaseException | None) -> None:
        """Print an error, unless one was printed within the last hour; never raises.

        Args:
            path: the file that could not be written.
            error: the exception.
        """
        now = time.monotonic()
        if now < self._quiet_until:
            return
        self._quiet_until = now + _REPEAT_SECONDS
        with suppress(Exception):
            print(
                f"vllm-obtain: cannot write {path} ({error}). Requests are served without log "
                "lines. Free disk space or fix the permissions of LOG_DIR; no restart is needed.",
                file=sys.stderr,
                flush=True,
            )


class LogFile(ConcurrentTimedRotatingFileHandler):
    """One log file, rotated at midnight UTC so that a file holds one day of its own timestamps.

    Args:
        path: the file; its folder exists.
        days: number of days to keep rotated files.
        error_reporter: reports write errors; shared by all files of a process.

    Raises:
        OSError: the file or its lock file (`.__NAME.lock` beside it) cannot be written.
    """

    def __init__(self, path: Path, days: int, error_reporter: WriteErrorReporter) -> None:
        self._days = days
        self._error_reporter = error_reporter
        self._is_torn = False
        self._is_retrying = False
        # The handler opens the file lazily; an error must be raised at start.
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE))
        # backupCount 0 disables the handler's own deletion, which counts files, not days.
        super().__init__(
            str(path), when="midnight", utc=True, encoding="utf-8", backupCount=0, chmod=MODE
        )
        self._path = Path(self.baseFilename)
        self.sweep()

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line. Only rotating and opening the file need the lock of all processes."""
        stream = self.clh.stream
        if stream is None or time.time() >= self.rolloverAt or not self._is_same(stream.fileno()):
            super().emit(record)
            return
        try:
            line = self.format(record).encode("utf-8", "replace") + b"\n"
            # A single write in append mode is not mixed with those of other processes.
            if os.write(stream.fileno(), line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except Exception:
            self.handleError(record)

    def doRollover(self) -> None:  # noqa: N802 - the name is logging's
        """Rotate the file and delete expired ones; the caller holds the lock."""
        super().doRollover()
        self.sweep()

    def rotate(self, source: str, dest: str) -> None:
        """Rename a file to its date; an empty file is not rotated."""
        with suppress(FileNotFoundError):
            if Path(source).stat().st_size:
                super().rotate(source, dest)

    def sweep(self) -> None:
        """Delete expired rotated files of this log."""
        path, today = self._path, datetime.now(UTC).date()
        with suppress(OSError):
            names = [file.name for file in path.parent.glob(f"{path.name}.*")]
            for name in expired(names, today, self._days):
                (path.parent / name).unlink(missing_ok=True)

    def format(self, record: logging.LogRecord) -> str:
        """Render the line, after a newline if the previous line is incomplete."""
        is_torn, self._is_torn = self._is_torn, False
        return ("\n" if is_torn else "") + super().format(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Report the error; a deleted folder is created again. Never raises."""
        error = sys.exc_info()[1]
        self._drop_stream(isinstance(error, OSError))
        if isinstance(error, FileNotFoundError) and not self._is_retrying:
            self._is_retrying = True
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            self.emit(record)
            self._is_retrying = False
            return
        self._error_reporter.report(self.baseFilename, error)

    def _is_same(self, fd: int) -> bool:
        """Whether the open file is still the one of this name: not rotated or deleted since."""
        with suppress(OSError):
            return os.path.samestat(self._path.stat(), os.fstat(fd))
        return False

    def _drop_stream(self, is_incomplete: bool) -> None:
        # After a failed flush the stream still buffers the line, and would write a part of it
        # between lines of other processes.
        stream, self.clh.stream = self.clh.stream, None
        self._is_torn = is_incomplete and stream is not None
        if stream is not None:
            with suppress(Exception):
                stream.close()
