"""How a log record becomes a line: JSON for files, readable text for the terminal.

Part of `log.py`. A record made by our loggers carries its context in `record.context`; one of a
third-party library has none and is rendered the same way.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

_encode = msgspec.json.Encoder(enc_hook=str).encode
# a client chooses model names and request ids: its escape codes must not reach a terminal
_CONTROL = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160)) if c not in (9, 10)}


def fields(record: logging.LogRecord, process: str) -> dict[str, Any]:
    """Collect what a line says, in the order in which it is written.

    Args:
        record: the record; its `context` attribute, where there is one, is a dict.
        process: the name of this process, such as "gateway".

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
    exception = _exception(record)
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
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline."""
        line = getattr(record, "json_line", None)
        if line is None:
            line = encode(fields(record, self._process))
            record.json_line = line
        return str(line)


class ConsoleLines(logging.Formatter):
    """Renders a record for a person.

    Args:
        process: the name of this process.
        colors: whether the terminal shows colours.
    """

    def __init__(self, process: str, colors: bool) -> None:
        super().__init__()
        self._process = process
        self._render = structlog.dev.ConsoleRenderer(
            colors=colors,
            repr_native_str=True,
            sort_keys=False,
            # the default one (of rich) prints local variables, and those hold prompts
            exception_formatter=structlog.dev.plain_traceback,
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it the traceback, where there is one."""
        line = fields(record, self._process)
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


def _exception(record: logging.LogRecord) -> str:
    """Return the traceback as text: frames and source lines, never the values of variables."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    if record.exc_text is None:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    return record.exc_text


def _safe(value: object) -> str | int | float | None:
    if value is None or isinstance(value, int | float):
        return value
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:
        text = f"<{type(value).__name__} without repr>"
    return text.encode("utf-8", "backslashreplace").decode()
