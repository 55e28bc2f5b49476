"""A log file that several processes write at once: daily rotation, old days deleted.

Part of `log.py`. Rotation and locking are ConcurrentTimedRotatingFileHandler's; added here are
deletion by age and what happens when a line cannot be written.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from concurrent_log_handler import ConcurrentTimedRotatingFileHandler

_ROTATED = re.compile(r"\.log\.(\d{4}-\d{2}-\d{2})(\.\d+)?$")
_REPEAT_SECONDS = 3600.0


def expired(name: str, today: date, days: int) -> bool:
    """Whether a rotated log file is older than it may become.

    Args:
        name: a file name, such as `app.log.2026-11-02`; any other kind of name is never expired.
        today: the current day in UTC.
        days: whole days to keep besides today.
    """
    match = _ROTATED.search(name)
    if match is None:
        return False
    try:
        day = date.fromisoformat(match[1])
    except ValueError:
        return False
    return day < today - timedelta(days=days)


class Complaint:
    """Tells stderr that log files cannot be written: once an hour, however many lines are lost."""

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def say(self, path: str, error: BaseException | None) -> None:
        """Print one sentence, unless that was done within the last hour; never raises.

        Args:
            path: the file that could not be written.
            error: what the attempt raised.
        """
        now = time.monotonic()
        if now < self._quiet_until:
            return
        self._quiet_until = now + _REPEAT_SECONDS
        with suppress(Exception):
            print(
                f"vllm-obtain: cannot write {path} ({error}). Requests go on, without log "
                "lines; free disk space or fix the rights of LOG_DIR, no restart is needed.",
                file=sys.stderr,
                flush=True,
            )


class LogFile(ConcurrentTimedRotatingFileHandler):
    """One log file, rotated at midnight UTC so that a file holds one day of its own timestamps.

    Args:
        path: the file; its folder exists.
        days: how many days of rotated files to keep.
        complaint: who says that writing fails; shared by all files of a process.

    Raises:
        OSError: the file or its lock file (`.__NAME.lock` beside it) cannot be written.
    """

    def __init__(self, path: Path, days: int, complaint: Complaint) -> None:
        self._days = days
        self._complaint = complaint
        self._torn = False
        self._again = False
        with path.open("a"):
            pass  # the handler opens lazily; an owner shall hear of a wrong right at start
        # backupCount 0 turns the handler's own deletion off: it counts files, not days
        super().__init__(str(path), when="midnight", utc=True, encoding="utf-8", backupCount=0)
        self.sweep()

    def doRollover(self) -> None:  # noqa: N802 - the name is logging's
        """Rename the file to its day and delete those that are too old; the lock is held."""
        super().doRollover()
        self.sweep()

    def rotate(self, source: str, dest: str) -> None:
        """Rename a file to its day; one without a line keeps its name."""
        with suppress(FileNotFoundError):
            if Path(source).stat().st_size:
                super().rotate(source, dest)

    def sweep(self) -> None:
        """Delete the rotated files of this log that are too old."""
        path = Path(self.baseFilename)
        today = datetime.now(UTC).date()
        with suppress(OSError):
            for old in path.parent.glob(f"{path.name}.*"):
                if expired(old.name, today, self._days):
                    old.unlink(missing_ok=True)

    def format(self, record: logging.LogRecord) -> str:
        """Render the line; a newline goes first when the line before it was cut off."""
        torn, self._torn = self._torn, False
        return ("\n" if torn else "") + super().format(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Complain once, never raise; a folder that was removed is made again."""
        error = sys.exc_info()[1]
        self._drop_stream(isinstance(error, OSError))
        if isinstance(error, FileNotFoundError) and not self._again:
            self._again = True
            with suppress(OSError):
                Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            self.emit(record)
            self._again = False
            return
        self._complaint.say(self.baseFilename, error)

    def _drop_stream(self, cut_off: bool) -> None:
        # after a failed flush the stream still holds the line, and would write it, or half of
        # it, between two lines of other processes
        stream, self.clh.stream = self.clh.stream, None
        self._torn = cut_off and stream is not None
        if stream is not None:
            with suppress(Exception):
                stream.close()
