"""How a log record becomes a line: JSON for files, readable text for the terminal.

Part of `log.py`. A record made by our loggers carries its context in `record.context`; one of a
third-party library has none and is rendered the same way.
"""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

# Exceptions whose words are the system's or the interpreter's, not a client's.
_HARMLESS = (OSError, ImportError, MemoryError, NameError, AttributeError)
_MOST_CAUSES = 5

_encode = msgspec.json.Encoder(enc_hook=str).encode
# a client chooses model names and request ids: its escape codes must not reach a terminal
_CONTROL = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160)) if c not in (9, 10)}


def fields(record: logging.LogRecord, process: str, private: bool = True) -> dict[str, Any]:
    """Collect what a line says, in the order in which it is written.

    Args:
        record: the record; its `context` attribute, where there is one, is a dict.
        process: the name of this process, such as "gateway".
        private: whether what exceptions say is left out, which may be a request's text.

    Returns:
        timestamp (ISO 8601, UTC, milliseconds), level, event, logger, process, pid, the context
        (a key that is taken gets an underscore, as in `pid_`), and `exception` (a traceback as
        text) where there is one.
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
    """Render one line of JSON; whatever is in it, this does not fail.

    Args:
        line: what `fields` collected; values that JSON has no form for become text.
    """
    try:
        return _encode(line).decode()
    except Exception:
        return _encode({_safe(key): _safe(value) for key, value in line.items()}).decode()


class JsonLines(logging.Formatter):
    """Renders a record as one line of JSON; a record that goes to two files is rendered once.

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
    """Renders a record for a person.

    Args:
        process: the name of this process.
        colors: whether the terminal shows colours.
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
            # the default one (of rich) prints local variables, and those hold prompts
            exception_formatter=structlog.dev.plain_traceback,
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it the traceback, where there is one."""
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
    except Exception:  # a library's text and its arguments do not match
        return str(record.msg)


def _exception(record: logging.LogRecord, private: bool) -> str:
    """Return the traceback as text: frames and source lines, never the values of variables."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    if private and record.exc_info[1] is not None:
        return _without_words(record.exc_info[1])
    if record.exc_text is None:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    return record.exc_text


def _without_words(error: BaseException) -> str:
    """Tell an exception, and those it came of, without what they say."""
    parts: list[str] = []
    while len(parts) < _MOST_CAUSES:
        kind = type(error).__qualname__
        said = f": {error}" if isinstance(error, _HARMLESS) else ""
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{kind}{said}")
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None:
            break
        error = before
    return "\n\nafter which came\n\n".join(reversed(parts))


def _safe(value: object) -> str | int | float | None:
    if value is None or isinstance(value, int | float):
        return value
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:
        text = f"<{type(value).__name__} without repr>"
    return text.encode("utf-8", "backslashreplace").decode()
