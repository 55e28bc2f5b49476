"""Log formatters: JSON lines for files, readable text for the terminal.

Records of this package carry their fields in `record.context`; those of libraries have none.
"""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

# Exceptions whose messages come from the system or the interpreter, not from a request.
_SAFE_EXCEPTIONS = (OSError, ImportError, MemoryError, NameError, AttributeError)
_MAX_CAUSES = 5

_encode = msgspec.json.Encoder(enc_hook=str).encode
# Clients choose model names and request ids; their escape codes must not reach a terminal.
_CONTROL = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160)) if c not in (9, 10)}


def fields(record: logging.LogRecord, process: str, private: bool = True) -> dict[str, Any]:
    """Collect the fields of a log line, in output order.

    Args:
        record: the record, optionally with a dict as attribute `context`.
        process: the name of this process, such as "gateway".
        private: whether to omit messages of exceptions, which may quote a request.

    Returns:
        timestamp (ISO 8601, UTC, milliseconds), level, event, logger, process, pid, `exception` (a
        traceback as text, if any), and the context. A context key that clashes gets an underscore,
        as in `pid_`.
    """
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    line: dict[str, Any] = {
        "timestamp": f"{moment[:-6]}Z",
        "level": record.levelname.lower(),
        "event": _event(record),
        "logger": record.name,
        "process": process,
        "pid": record.process,
    }
    exception = _exception(record, private)
    if exception:
        line["exception"] = exception
    for key, value in getattr(record, "context", {}).items():
        line[f"{key}_" if key in line else key] = value
    return line


def encode(line: dict[str, Any]) -> str:
    """Render one line of JSON; never raises.

    Args:
        line: the fields; values that JSON cannot represent become text.
    """
    try:
        return _encode(line).decode()
    except Exception:
        return _encode({_safe(key): _safe(value) for key, value in line.items()}).decode()


class JsonLines(logging.Formatter):
    """Renders a record as one line of JSON; the result is cached for a second file.

    Args:
        process: the name of this process.
        private: as in `fields`.
    """

    def __init__(self, process: str, private: bool = True) -> None:
        super().__init__()
        self._process = process
        self._private = private

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline."""
        line = getattr(record, "json_line", None)
        if line is None:
            line = encode(fields(record, self._process, self._private))
            record.json_line = line
        return str(line)


class ConsoleLines(logging.Formatter):
    """Renders a record as readable text.

    Args:
        process: the name of this process.
        colors: whether to use colors.
        private: as in `fields`.
    """

    def __init__(self, process: str, colors: bool, private: bool = True) -> None:
        super().__init__()
        self._process = process
        self._private = private
        self._render = structlog.dev.ConsoleRenderer(
            colors=colors,
            repr_native_str=True,
            sort_keys=False,
            # The default (rich) prints local variables, which contain prompts.
            exception_formatter=structlog.dev.plain_traceback,
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the traceback if there is one."""
        line = fields(record, self._process, self._private)
        del line["process"], line["pid"]
        line["logger"] = f"{self._process} {record.name.removeprefix('vllm_obtain.')}"
        line["event"] = line["event"].translate(_CONTROL)
        if "exception" in line:
            line["exception"] = str(line["exception"]).translate(_CONTROL)
        return self._render(None, line["level"], line)


def _event(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # the format string of a library does not match its arguments
        return str(record.msg)


def _exception(record: logging.LogRecord, private: bool) -> str:
    """Return the traceback as text: frames and source lines, never the values of variables."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    if private and record.exc_info[1] is not None:
        return _without_messages(record.exc_info[1])
    if record.exc_text is None:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    return record.exc_text


def _without_messages(error: BaseException) -> str:
    """Render an exception and its causes without their messages, which may quote a request."""
    parts: list[str] = []
    while len(parts) < _MAX_CAUSES:
        kind = type(error).__qualname__
        message = f": {error}" if isinstance(error, _SAFE_EXCEPTIONS) else ""
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{kind}{message}")
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None:
            break
        error = cause
    return "\n\nwhich was followed by\n\n".join(reversed(parts))


def _safe(value: object) -> str | int | float | None:
    if value is None or isinstance(value, int | float):
        return value
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:
        text = f"<{type(value).__name__} without repr>"
    return text.encode("utf-8", "backslashreplace").decode()
