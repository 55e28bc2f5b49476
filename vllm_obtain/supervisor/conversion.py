"""Has a model's files converted for its engine, by a child process that ends with us."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

from vllm_obtain.catalogue import Model
from vllm_obtain.catalogue.convert import Plan, Progress, Target, plan, read_line
from vllm_obtain.catalogue.scan import read_file, read_folder
from vllm_obtain.engines.base import Launch
from vllm_obtain.log import get_logger
from vllm_obtain.messages import Limits
from vllm_obtain.supervisor.process import EngineProcess

log = get_logger("vllm_obtain.models")


class NotConverted(Exception):
    """The files could not be converted; the message says why."""


async def convert(
    model: Model, target: Target, pidfile: Path, tell: Callable[[str], None]
) -> Model:
    """Convert a model, unless that was done before.

    Args:
        model: what is on disk.
        target: what it has to become.
        pidfile: where the guard notes the child's pid.
        tell: told how far it is, in a few words; not called when there is nothing to do.

    Returns:
        What it became as a model, under the name and revision of its source.

    Raises:
        NotConverted: it cannot be done.
    """
    todo = await asyncio.to_thread(plan, model, target)
    if todo.problem:
        raise NotConverted(todo.problem)
    if not todo.done:
        tell("converting")
        await _run(todo, pidfile, tell)
    found = read_file(todo.file) if target == "gguf" else read_folder(todo.folder)
    if found is None or found.problem:
        why = found.problem if found else "nothing is in it"
        raise NotConverted(f"{todo.folder} cannot be used: {why}. Remove that folder.")
    # A folder may name a shorter context than the table of positions that goes into a file.
    context = model.context_length or found.context_length
    found = dataclasses.replace(found, name=model.name, revision=model.revision)
    return dataclasses.replace(found, kind=model.kind, context_length=context)


async def _run(todo: Plan, pidfile: Path, tell: Callable[[str], None]) -> None:
    def heard(line: str) -> None:
        if (percent := _percent(line)) is not None:
            tell(f"converting {percent} %")

    log.info("converting", source=str(todo.source), target=todo.target)
    child = EngineProcess(f"convert/{todo.source.name}", pidfile, heard)
    await child.start(Launch(todo.command, Limits(0, 0, 0)))
    try:
        status = await child.wait()
    finally:
        # Called off, it still removes what it has begun.
        await asyncio.shield(child.stop())
    if status != 0:
        raise NotConverted(child.tail[-1] if child.tail else f"it ended with status {status}")
    log.info("converted", folder=str(todo.folder))


def _percent(line: str) -> int | None:
    """Read how far it is from a line of the child's; None when that says nothing of it."""
    try:
        said = read_line(line)
    except ValueError:
        return None
    if not isinstance(said, Progress) or said.total <= 0:
        return None
    return 100 * said.done // said.total
