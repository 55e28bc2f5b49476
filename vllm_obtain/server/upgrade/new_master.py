"""The new master's part of an upgrade: load all models before it accepts requests."""

from __future__ import annotations

import os
import socket
import sys

from vllm_obtain.config.settings import Settings
from vllm_obtain.control import runtime_dir
from vllm_obtain.control.client import SupervisorClient
from vllm_obtain.control.messages import LoadModel, LoadStatus
from vllm_obtain.errors import ServiceError
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.server.upgrade import channel
from vllm_obtain.server.upgrade.channel import (
    CLEAR,
    FAILED,
    HOLD,
    READY,
    MasterChannel,
    Predecessor,
    send,
)

log = get_logger("vllm_obtain.upgrade")

# Seconds beyond REQUEST_TIMEOUT in which the old version finishes its requests.
MARGIN = 60.0
# Error codes of models that were removed from disk while the old version has them loaded.
REMOVED_MODEL_CODES = frozenset({"model_not_found"})


def choose_runtime_dir(before: Predecessor, settings: Settings) -> None:
    """Use the old version's runtime folder if its supervisor can be shared, else the other one."""
    same = runtime_dir.version(settings) == before.version
    os.environ[runtime_dir.PLACE] = before.place if same else before.free_place


def load_models(before: Predecessor, settings: Settings) -> None:
    """Load the models that the old version has loaded. Ends this process if that fails.

    Args:
        before: the old version.
        settings: settings of the new version.
    """
    if runtime_dir.version(settings) == before.version:
        return
    try:
        if not before.beside:
            _request_memory(before, settings)
        supervisor = SupervisorClient(settings, os.getpid())
        supervisor.ensure_running(replace=True)
        for model in before.models:
            _load(supervisor, model, settings)
    except (ServiceError, OSError) as error:
        message = getattr(error, "message", str(error))
        fail(before, message)


def fail(before: Predecessor | None, reason: str) -> None:
    """End this process and send the reason to the old version, if there is one."""
    if before is not None:
        send(before.line, FAILED, reason)
    sys.exit(reason)


def serve(before: Predecessor, settings: Settings, master: int) -> None:
    """Take over as the service. Called by each worker when it accepts requests.

    Args:
        before: the old version.
        settings: settings of the new version.
        master: pid of the new gunicorn master.
    """
    # The connection is closed when a later worker starts.
    if channel.is_connected(before.line) or runtime_dir.service(settings.port) is None:
        runtime_dir.begin_service(settings.port, beside=True, pid=master)
    send(before.line, READY, runtime_dir.version(settings))


def _request_memory(before: Predecessor, settings: Settings) -> None:
    send(before.line, HOLD)
    # Closing the duplicate leaves the descriptor open for the workers.
    connection = MasterChannel(socket.socket(fileno=os.dup(before.line)))
    try:
        if connection.receive(settings.request_timeout + MARGIN) != CLEAR:
            fail(before, "The old version did not unload its models.")
    finally:
        connection.close()


def _load(supervisor: SupervisorClient, model: str, settings: Settings) -> None:
    try:
        supervisor.request(LoadModel(model, True), LoadStatus, settings.load_timeout + MARGIN)
    except ServiceError as error:
        if error.code not in REMOVED_MODEL_CODES:
            raise
        log.warning("model skipped", reason="removed from disk", model=model)
