"""Logging: structlog loggers over the handlers of the standard library, set up once per process.

    get_logger → record → terminal             readable, LOG_LEVEL and above
                        → app.log              LOG_LEVEL and above, without access and system
                        → api_requests.log     the logger ACCESS alone
                        → model_operations.log the logger MODELS alone (app.log has it too)
                        → system_metrics.log   the logger SYSTEM alone
                        → errors.log           ERROR and above of every logger

The three loggers with a file of their own write to it from INFO on, whatever LOG_LEVEL says.
Third-party loggers go the same ways, from WARNING on. Prompts and completions are never logged.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import IO, Any, TypeVar, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from vllm_obtain._log_file import Complaint, LogFile
from vllm_obtain._log_lines import ConsoleLines, JsonLines
from vllm_obtain.errors import StartError
from vllm_obtain.settings import Settings

ACCESS = "vllm_obtain.access"
MODELS = "vllm_obtain.models"
SYSTEM = "vllm_obtain.system"

Handler = TypeVar("Handler", bound=logging.Handler)
Chosen = logging.Filter | Callable[[logging.LogRecord], bool] | None

_LEVELS = logging.getLevelNamesMapping()
_THIRD_PARTY = {"gunicorn.error": "INFO", "werkzeug": "WARNING", "asyncio": "WARNING"}
_ONLY_ACCESS = logging.Filter(ACCESS)
_ONLY_SYSTEM = logging.Filter(SYSTEM)
_loggers: dict[str, Any] = {}


def configure(settings: Settings, process: str, console: bool = True) -> None:
    """Set up logging for this process; a second call replaces what the first one set up.

    Args:
        settings: gives LOG_LEVEL, DEBUG, ENABLE_LOG_FILE, LOG_DIR and LOG_RETENTION_DAYS.
        process: the name of this process in each line, such as "gateway" or "supervisor".
        console: whether lines go to the terminal (stderr) too.

    Raises:
        StartError: LOG_DIR cannot be written; the handlers stay as they were.
    """
    level = "DEBUG" if settings.debug else settings.log_level
    handlers: list[logging.Handler] = []
    private = not settings.log_prompts
    if settings.enable_log_file:
        handlers += _files(settings, level, process)
    if console:
        handlers.append(_terminal(level, process, private))
    close()
    root = logging.getLogger()
    root.setLevel("WARNING")
    for handler in handlers:
        root.addHandler(handler)
    for name, least in _THIRD_PARTY.items():
        _adopt(logging.getLogger(name), least, private)
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(
            "DEBUG" if level == "DEBUG" else "INFO"
        ),
        logger_factory=_Sink,
        cache_logger_on_first_use=True,
    )


def close() -> None:
    """Remove and close the handlers that `configure` added; loggers fall back to the defaults."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, LogFile | Terminal)]:
        root.removeHandler(handler)
        handler.close()
    structlog.reset_defaults()
    for proxy in _loggers.values():
        # structlog caches the level in a logger at its first use: make it look again
        vars(proxy).pop("bind", None)


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of a name; the same object each time, usable before `configure`.

    Args:
        name: such as `__name__`; ACCESS, MODELS and SYSTEM have files of their own.
    """
    if name not in _loggers:
        _loggers[name] = structlog.wrap_logger(_Sink(name), processors=_PROCESSORS)
    return cast(FilteringBoundLogger, _loggers[name])


def bind(**context: object) -> None:
    """Add context, such as `request_id` or `model`, to all further lines of this request.

    Args:
        context: kept per thread, greenlet or task; what is spawned from here inherits it.
    """
    structlog.contextvars.bind_contextvars(**context)


def clear() -> None:
    """Forget what `bind` added; a kept-alive connection serves its requests in one greenlet."""
    structlog.contextvars.clear_contextvars()


class Terminal(logging.StreamHandler[IO[str]]):
    """The terminal. One that went away is no reason to stop, nor a place to say so."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Do nothing."""


class _Sink:
    """The end of structlog's chain: hands a finished record to the handlers of the root."""

    def __init__(self, name: str = "vllm_obtain") -> None:
        self.name = name

    def handle(self, record: logging.LogRecord) -> None:
        logging.getLogger().handle(record)

    debug = info = warning = error = critical = notset = handle


def _to_record(
    sink: _Sink, method: str, event: EventDict
) -> tuple[tuple[logging.LogRecord], dict[str, Any]]:
    # built by hand: logging's own way first walks the stack to find the caller's line
    exc_info = _exc_info(event.pop("exc_info", None))
    text = str(event.pop("event", ""))
    record = logging.LogRecord(sink.name, _LEVELS[method.upper()], "", 0, text, None, exc_info)
    record.context = event
    return (record,), {}


def _exc_info(value: Any) -> Any:
    if isinstance(value, BaseException):
        return (type(value), value, value.__traceback__)
    return sys.exc_info() if value is True else value or None


_PROCESSORS: list[Any] = [structlog.contextvars.merge_contextvars, _to_record]


def _files(settings: Settings, level: str, process: str) -> list[LogFile]:
    routes: dict[str, tuple[str, Chosen]] = {
        "app.log": (level, _is_general),
        "api_requests.log": ("DEBUG", _ONLY_ACCESS),
        "model_operations.log": ("DEBUG", logging.Filter(MODELS)),
        "system_metrics.log": ("DEBUG", _ONLY_SYSTEM),
        "errors.log": ("ERROR", None),
    }
    files: list[LogFile] = []
    complaint, formatter = Complaint(), JsonLines(process, not settings.log_prompts)
    try:
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        for name, (least, chosen) in routes.items():
            file = LogFile(settings.log_dir / name, settings.log_retention_days, complaint)
            files.append(_prepared(file, least, chosen, formatter))
    except OSError as error:
        for file in files:
            file.close()
        raise StartError(
            f"LOG_DIR={settings.log_dir} cannot be written ({error.strerror or error}). "
            "Set LOG_DIR to a folder you own, or ENABLE_LOG_FILE=false."
        ) from error
    return files


def _terminal(level: str, process: str, private: bool) -> Terminal:
    colors = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    chosen = None if level == "DEBUG" else _is_general
    return _prepared(Terminal(sys.stderr), level, chosen, ConsoleLines(process, colors, private))


def _prepared(
    handler: Handler, level: str, chosen: Chosen, formatter: logging.Formatter
) -> Handler:
    handler.setLevel(level)
    handler.setFormatter(formatter)
    if chosen is not None:
        handler.addFilter(chosen)
    return handler


def _is_general(record: logging.LogRecord) -> bool:
    return not (_ONLY_ACCESS.filter(record) or _ONLY_SYSTEM.filter(record))


def _repeats_nothing(record: logging.LogRecord) -> bool:
    """Have a server's complaint about a request not repeat the request, nor a key in its head."""
    text = str(record.msg)
    if text.startswith("Invalid request from "):  # gunicorn's
        record.msg, record.args = text.partition(": ")[0], ()
    elif text.startswith("Error handling request "):
        record.msg, record.args = "Error handling request", ()
    elif text.startswith("Error on request:"):  # werkzeug's, with a traceback and its words
        places = [line for line in text.splitlines() if line.lstrip().startswith('File "')]
        record.msg, record.args = "\n".join(["Error on request:", *places]), ()
    elif ", message %s" in text:  # likewise
        record.msg, record.args = text.partition(", message %s")[0], _first(record.args)
    return True


def _first(args: object) -> tuple[object, ...]:
    return args[:1] if isinstance(args, tuple) else ()


def _adopt(logger: logging.Logger, level: str, private: bool) -> None:
    (logger.addFilter if private else logger.removeFilter)(_repeats_nothing)

    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = True
    logger.setLevel(level)
