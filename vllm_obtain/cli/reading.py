"""`vllm-obtain logs`: the log files, readable."""

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

from vllm_obtain.cli.client import fail

_POLL = 0.25
# What stands first in a line, and what says nothing to somebody who reads it.
_FIRST = ("timestamp", "level", "event")
_DULL = frozenset({*_FIRST, "logger", "process", "pid", "exception"})


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
    which: Annotated[Log, typer.Argument(help="Which of them.")] = Log.APP,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="The last so many.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As they are in the file.")] = False,
) -> None:
    """Show a log of the service on this machine."""
    from vllm_obtain.errors import SettingsError
    from vllm_obtain.settings import load_settings

    try:
        path = load_settings().log_dir / _FILES[which]
        file = path.open(encoding="utf-8", errors="replace")
    except SettingsError as error:
        raise fail(error) from None
    except OSError as error:
        raise fail(
            f"{path} cannot be read ({error.strerror}). LOG_DIR says where logs are, and "
            "ENABLE_LOG_FILE whether there are any."
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
    """Yield what is written from now on, also after the file was renamed to its day."""
    file = path.open(encoding="utf-8", errors="replace")
    file.seek(0, 2)
    while True:
        line = file.readline()
        if line.endswith("\n"):
            yield line
            continue
        file.seek(file.tell() - len(line.encode()))
        time.sleep(_POLL)
        if path.exists() and path.stat().st_ino != _inode(file):
            file.close()
            file = path.open(encoding="utf-8", errors="replace")


def _inode(file: Any) -> int:
    return os.fstat(file.fileno()).st_ino


def _show(line: str, as_json: bool) -> None:
    text = line.rstrip("\n")
    try:
        found = json.loads(text)
        first = [str(found[name]) for name in _FIRST]
    except (ValueError, KeyError, TypeError):
        as_json = True
    if as_json:
        typer.echo(text)
        return
    more = [f"{name}={_plain(found[name])}" for name in found if name not in _DULL]
    typer.echo(f"{first[0]} {first[1]:<8} {first[2]}  {' '.join(more)}".rstrip())
    if trace := found.get("exception"):
        typer.echo(trace)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value)
