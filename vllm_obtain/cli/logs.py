"""`vllm-obtain logs`: print the log files in readable form."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from vllm_obtain.cli.api_client import fail

_POLL_SECONDS = 0.25
_FIRST_FIELDS = ("timestamp", "level", "event")
_OMITTED_FIELDS = frozenset({*_FIRST_FIELDS, "logger", "process", "pid", "exception"})


class Log(StrEnum):
    """A file of LOG_DIR."""

    APP = "app"
    REQUESTS = "requests"
    MODELS = "models"
    SYSTEM = "system"
    ERRORS = "errors"


_FILES = {
    Log.APP: "app.log",
    Log.REQUESTS: "api_requests.log",
    Log.MODELS: "model_operations.log",
    Log.SYSTEM: "system_metrics.log",
    Log.ERRORS: "errors.log",
}


def logs(
    which: Annotated[Log, typer.Argument(help="Log file to show.")] = Log.APP,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="Number of lines to show from the end.")
    ] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new lines until Ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the raw JSON lines.")] = False,
) -> None:
    """Show a log file of the service on this machine."""
    from vllm_obtain.config.settings import load_settings
    from vllm_obtain.errors import SettingsError

    try:
        path = load_settings().log_dir / _FILES[which]
        file = path.open(encoding="utf-8", errors="replace")
    except SettingsError as error:
        raise fail(error) from None
    except OSError as error:
        raise fail(
            f"Cannot read {path} ({error.strerror}). Check that LOG_DIR is the folder of the "
            "service and that ENABLE_LOG_FILE is on."
        ) from None
    with file:
        for line in deque(file, lines):
            _show(line, as_json)
    try:
        for line in _new(path) if follow else ():
            _show(line, as_json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _new(path: Path) -> Iterator[str]:
    """Yield new lines, also after the file was rotated."""
    file = path.open(encoding="utf-8", errors="replace")
    file.seek(0, 2)
    while True:
        line = file.readline()
        if line.endswith("\n"):
            yield line
            continue
        file.seek(file.tell() - len(line.encode()))
        time.sleep(_POLL_SECONDS)
        if path.exists() and path.stat().st_ino != _inode(file):
            file.close()
            file = path.open(encoding="utf-8", errors="replace")


def _inode(file: Any) -> int:
    return os.fstat(file.fileno()).st_ino


def _show(line: str, as_json: bool) -> None:
    text = line.rstrip("\n")
    try:
        fields = json.loads(text)
        first = [str(fields[name]) for name in _FIRST_FIELDS]
    except (ValueError, KeyError, TypeError):
        as_json = True
    if as_json:
        typer.echo(text)
        return
    rest = [f"{name}={_plain(fields[name])}" for name in fields if name not in _OMITTED_FIELDS]
    typer.echo(f"{first[0]} {first[1]:<8} {first[2]}  {' '.join(rest)}".rstrip())
    if traceback := fields.get("exception"):
        typer.echo(traceback)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value)
