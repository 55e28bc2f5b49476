"""Compares models with their sources or their manifests, in a child process."""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from vllm_obtain.control.messages import InspectModels, ModelsInspected
from vllm_obtain.errors import Overloaded
from vllm_obtain.supervisor.child_task import run_child
from vllm_obtain.supervisor.handlers import Handlers
from vllm_obtain.supervisor.models.downloads import COMMAND

# Maximum number of inspections at the same time. Each reads all files of models, or waits for hubs.
MAX_INSPECTIONS = 2


class ModelInspections:
    """Compares models with their sources or with their manifests.

    Args:
        folder: folder for pid files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = 0
        self.handlers: Handlers = {InspectModels: self.inspect}

    async def inspect(self, request: InspectModels) -> ModelsInspected:
        """Compare models. A cancellation ends the child process.

        Raises:
            ServiceError: a model does not exist, or too many checks are running.
        """
        if self._running >= MAX_INSPECTIONS:
            raise Overloaded(
                f"{MAX_INSPECTIONS} checks of models are running, the maximum. Try again later.",
                retry_after=30,
                retry=False,
            )
        self._running += 1
        try:
            pidfile = self._folder / f"elook-{secrets.token_hex(6)}.pid"
            command = [*COMMAND, "--task", request.task, "--", *request.names]
            progress = await run_child(request.task, pidfile, command, lambda _: None)
        finally:
            self._running -= 1
        return ModelsInspected(msgspec.json.encode(progress.report))
