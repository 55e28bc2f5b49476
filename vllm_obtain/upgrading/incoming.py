"""The new master's part: to be ready before it takes a single request, or to say why not."""

from __future__ import annotations

import os
import socket
import sys

from vllm_obtain.errors import ServiceError
from vllm_obtain.log import get_logger
from vllm_obtain.messages import Done, Load
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor import runtime
from vllm_obtain.supervisor.client import Supervisor
from vllm_obtain.upgrading import channel
from vllm_obtain.upgrading.channel import CLEAR, FAILED, HOLD, READY, Line, Predecessor, say

log = get_logger("vllm_obtain.upgrade")

# Seconds for the old version to finish what it has, beyond REQUEST_TIMEOUT.
MARGIN = 60.0
# Codes of models that are no more, which the old version may have loaded still.
GONE = frozenset({"model_not_found"})


def settle(before: Predecessor, settings: Settings) -> None:
    """Choose a place: the old version's own if its supervisor and engines can be kept."""
    same = runtime.version(settings) == before.version
    os.environ[runtime.PLACE] = before.place if same else before.free_place


def prepare(before: Predecessor, settings: Settings) -> None:
    """Have everything loaded that the old version has; ends this process when that fails.

    Args:
        before: the old version.
        settings: ours.
    """
    if runtime.version(settings) == before.version:
        return
    try:
        if not before.beside:
            _wait_for_room(before, settings)
        supervisor = Supervisor(settings, os.getpid())
        supervisor.ensure_running(replace=True)
        for model in before.models:
            _load(supervisor, model, settings)
    except (ServiceError, OSError) as error:
        message = getattr(error, "message", str(error))
        give_up(before, message)


def give_up(before: Predecessor | None, reason: str) -> None:
    """End this process, and tell the old version why if there is one."""
    if before is not None:
        say(before.line, FAILED, reason)
    sys.exit(reason)


def serve(before: Predecessor, settings: Settings, master: int) -> None:
    """Be the service from now on; said by the first worker that answers requests.

    Args:
        before: the old version.
        settings: ours.
        master: our gunicorn master.
    """
    # A worker that comes later has nobody to tell.
    if channel.listens(before.line) or runtime.service(settings.port) is None:
        runtime.begin_service(settings.port, beside=True, pid=master)
    say(before.line, READY, runtime.version(settings))


def _wait_for_room(before: Predecessor, settings: Settings) -> None:
    say(before.line, HOLD)
    # The descriptor stays open for our workers.
    line = Line(socket.socket(fileno=os.dup(before.line)))
    try:
        if line.hear(settings.request_timeout + MARGIN) != CLEAR:
            give_up(before, "The version before made no room.")
    finally:
        line.close()


def _load(supervisor: Supervisor, model: str, settings: Settings) -> None:
    try:
        supervisor.ask(Load(model, True), Done, settings.load_timeout + MARGIN)
    except ServiceError as error:
        if error.code not in GONE:
            raise
        log.warning("a model that was loaded is no more", model=model)
