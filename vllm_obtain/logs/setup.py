"""Logging: structlog loggers over the handlers of the standard library, set up once per process.

    get_logger → record → terminal             readable, LOG_LEVEL and above
                        → app.log              LOG_LEVEL and above, except access and system
                        → api_requests.log     only the logger ACCESS
                        → model_operations.log only the logger MODELS (also in app.log)
                        → system_metrics.log   only the logger SYSTEM
                        → errors.log           ERROR and above, all loggers

ACCESS, MODELS and SYSTEM write to their files from INFO on, regardless of LOG_LEVEL. Third-party
loggers use the same handlers, from WARNING on. Prompts and completions are never logged.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import IO, Any, TypeVar, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import StartError
from vllm_obtain.logs.formatters import ConsoleLines, JsonLines
from vllm_obtain.logs.rotating_file import LogFile, WriteErrorReporter

ACCESS = "vllm_obtain.access"
MODELS = "vllm_obtain.models"
SYSTEM = "vllm_obtain.system"

Handler = TypeVar("Handler", bound=logging.Handler)
RecordFilter = logging.Filter | Callable[[logging.LogRecord], bool] | None

_LEVELS = logging.getLevelNamesMapping()
_THIRD_PARTY = {"gunicorn.error": "INFO", "werkzeug": "WARNING", "asyncio": "WARNING"}
_ONLY_ACCESS = logging.Filter(ACCESS)
_ONLY_SYSTEM = logging.Filter(SYSTEM)
_loggers: dict[str, Any] = {}


def configure(
    settings: Settings, process: str, console: bool = True, required: bool = True
) -> None:
    """Set up logging for this process; a second call replaces the setup.

    Args:
        settings: provides LOG_LEVEL, DEBUG, ENABLE_LOG_FILE, LOG_DIR and LOG_RETENTION_DAYS.
        process: the name of this process in each line, such as "gateway" or "supervisor".
        console: whether to log to the terminal (stderr) too.
        required: whether log files are required. If not, and LOG_DIR cannot be written, only the
            terminal is used, and a line there says so.

    Raises:
        StartError: log files are required and LOG_DIR cannot be written; the setup is unchanged.
    """
    level = "DEBUG" if settings.debug else settings.log_level
    handlers: list[logging.Handler] = []
    private = not settings.log_prompts
    problem: StartError | None = None
    if settings.enable_log_file:
        try:
            handlers += _files(settings, level, process)
        except StartError as error:
            if required:
                raise
            problem = error
    if console or problem:
        handlers.append(_terminal(level, process, private))
    close()
    # No line names them.
    logging.logThreads = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.setLevel("WARNING")
    for handler in handlers:
        root.addHandler(handler)
    for name, third_party_level in _THIRD_PARTY.items():
        _redirect(logging.getLogger(name), third_party_level, private)
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(
            "DEBUG" if level == "DEBUG" else "INFO"
        ),
        logger_factory=_Sink,
        cache_logger_on_first_use=True,
    )
    if problem is not None:
        get_logger("vllm_obtain.logs").error("log files unavailable", reason=str(problem))


def close_terminal() -> None:
    """Stop logging to the terminal; log files continue."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, Terminal)]:
        root.removeHandler(handler)


def close() -> None:
    """Remove and close the handlers that `configure` added; loggers fall back to the defaults."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, LogFile | Terminal)]:
        root.removeHandler(handler)
        handler.close()
    structlog.reset_defaults()
    for proxy in _loggers.values():
        # structlog caches the level in a logger at its first use.
        vars(proxy).pop("bind", None)


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of a name; the same object each time, usable before `configure`.

    Args:
        name: such as `__name__`; ACCESS, MODELS and SYSTEM have separate files.
    """
    if name not in _loggers:
        _loggers[name] = structlog.wrap_logger(_Sink(name), processors=_PROCESSORS)
    return cast(FilteringBoundLogger, _loggers[name])


def bind(**context: object) -> None:
    """Add context, such as `request_id` or `model`, to all following lines of this request.

    Args:
        context: stored per thread, greenlet or task; inherited by those it starts.
    """
    structlog.contextvars.bind_contextvars(**context)


def clear() -> None:
    """Remove the context; the requests of a keep-alive connection share one greenlet."""
    structlog.contextvars.clear_contextvars()


class Terminal(logging.StreamHandler[IO[str]]):
    """Console handler. Write errors, such as on a closed terminal, are ignored."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Do nothing."""


class _Sink:
    """The end of structlog's chain: passes records to the handlers of the root logger."""

    def __init__(self, name: str = "vllm_obtain") -> None:
        self.name = name

    def handle(self, record: logging.LogRecord) -> None:
        logging.getLogger().handle(record)

    debug = info = warning = error = critical = notset = handle


def _to_record(
    sink: _Sink, method: str, event: EventDict
) -> tuple[tuple[logging.LogRecord], dict[str, Any]]:
    # Logger.makeRecord is not used: logging would first walk the stack to find the caller.
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
    routes: dict[str, tuple[str, RecordFilter]] = {
        "app.log": (level, _is_general),
        "api_requests.log": ("DEBUG", _ONLY_ACCESS),
        "model_operations.log": ("DEBUG", logging.Filter(MODELS)),
        "system_metrics.log": ("DEBUG", _ONLY_SYSTEM),
        "errors.log": ("ERROR", None),
    }
    files: list[LogFile] = []
    error_reporter = WriteErrorReporter()
    formatter = JsonLines(process, not settings.log_prompts)
    try:
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        for name, (level_name, record_filter) in routes.items():
            file = LogFile(settings.log_dir / name, settings.log_retention_days, error_reporter)
            files.append(_set_up(file, level_name, record_filter, formatter))
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
    record_filter = None if level == "DEBUG" else _is_general
    return _set_up(
        Terminal(sys.stderr), level, record_filter, ConsoleLines(process, colors, private)
    )


def _set_up(
    handler: Handler, level: str, record_filter: RecordFilter, formatter: logging.Formatter
) -> Handler:
    handler.setLevel(level)
    handler.setFormatter(formatter)
    if record_filter is not None:
        handler.addFilter(record_filter)
    return handler


def _is_general(record: logging.LogRecord) -> bool:
    return not (_ONLY_ACCESS.filter(record) or _ONLY_SYSTEM.filter(record))


def _redact_request(record: logging.LogRecord) -> bool:
    """Remove the request, which may contain an API key, from error messages of the servers."""
    text = str(record.msg)
    if text.startswith("Invalid request from "):  # from gunicorn
        record.msg, record.args = text.partition(": ")[0], ()
    elif text.startswith("Error handling request "):
        record.msg, record.args = "Error handling request", ()
    elif text.startswith("Error on request:"):  # from werkzeug, with a traceback and messages
        frames = [line for line in text.splitlines() if line.lstrip().startswith('File "')]
        record.msg, record.args = "\n".join(["Error on request:", *frames]), ()
    elif ", message %s" in text:  # from werkzeug
        record.msg, record.args = text.partition(", message %s")[0], _first(record.args)
    return True


def _first(args: object) -> tuple[object, ...]:
    return args[:1] if isinstance(args, tuple) else ()


def _redirect(logger: logging.Logger, level: str, private: bool) -> None:
    (logger.addFilter if private else logger.removeFilter)(_redact_request)

    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = True
    logger.setLevel(level)
