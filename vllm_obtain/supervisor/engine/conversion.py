"""Converts a model's files for its engine, in a child process."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

from vllm_obtain.errors import ServiceError
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models import Model
from vllm_obtain.models.convert import ConversionPlan, Target, plan
from vllm_obtain.models.progress import Progress
from vllm_obtain.models.scan import read_file, read_folder
from vllm_obtain.supervisor.child_task import run_child

log = get_logger("vllm_obtain.models")


class NotConverted(Exception):
    """The files could not be converted. The message has the reason."""


async def convert(
    model: Model, target: Target, pidfile: Path, report: Callable[[str], None]
) -> Model:
    """Convert a model, unless the conversion exists.

    Args:
        model: the model on disk.
        target: the target format.
        pidfile: file to which the guard writes the child's pid.
        report: called with the stage, such as `converting 43 %`. Not called if the conversion
            exists.

    Returns:
        The converted model, with the name and revision of its source.

    Raises:
        NotConverted: the conversion failed.
    """
    conversion = await asyncio.to_thread(plan, model, target)
    if conversion.problem:
        raise NotConverted(conversion.problem)
    if not conversion.done:
        report("converting")
        await _run(conversion, pidfile, report)
    converted = read_file(conversion.file) if target == "gguf" else read_folder(conversion.folder)
    if converted is None or converted.problem:
        reason = converted.problem if converted else "it is empty"
        raise NotConverted(f"{conversion.folder} is not usable: {reason}. Delete that folder.")
    # The source may state a shorter context length than the converted file.
    context = model.context_length or converted.context_length
    converted = dataclasses.replace(converted, name=model.name, revision=model.revision)
    return dataclasses.replace(converted, kind=model.kind, context_length=context)


async def _run(conversion: ConversionPlan, pidfile: Path, report: Callable[[str], None]) -> None:
    def on_progress(progress: Progress) -> None:
        if progress.total > 0:
            report(f"converting {100 * progress.done // progress.total} %")

    log.info("conversion started", source=str(conversion.source), target=conversion.target)
    name = f"convert/{conversion.source.name}"
    try:
        await run_child(name, pidfile, conversion.command, on_progress)
    except ServiceError as error:
        raise NotConverted(error.message) from error
    log.info("conversion finished", folder=str(conversion.folder))
