"""`rm` on this machine: a running service removes the model, otherwise this process does."""

from __future__ import annotations

from vllm_obtain.cli.api_client import fail
from vllm_obtain.config.settings import Settings, load_settings
from vllm_obtain.control import runtime_dir
from vllm_obtain.control.client import ControlConnection
from vllm_obtain.control.messages import ModelRemoved, RemoveModel
from vllm_obtain.download.install import delete_trash
from vllm_obtain.download.remove import move_to_trash
from vllm_obtain.errors import ServiceError, SettingsError
from vllm_obtain.models import ModelCatalog


def remove_local(name: str) -> tuple[list[str], int]:
    """Remove a model from this machine.

    Returns:
        The removed paths, relative to MODELS_DIR, and their size in bytes.
    """
    try:
        settings = load_settings()
        try:
            return _remove_by_service(name, settings)
        except OSError:  # no service runs, so the model is not in use
            return _remove_directly(name, settings)
    except (ServiceError, SettingsError) as error:
        raise fail(error) from None


def _remove_by_service(name: str, settings: Settings) -> tuple[list[str], int]:
    # Only the supervisor knows which models are in use.
    control = runtime_dir.home(settings.port) / runtime_dir.CONTROL
    with ControlConnection(control) as connection:
        removed = connection.request(RemoveModel(name), ModelRemoved, 120)
    return removed.paths, removed.size


def _remove_directly(name: str, settings: Settings) -> tuple[list[str], int]:
    catalog = ModelCatalog(settings.models_dir, table=settings.models)
    model = catalog.find(name)
    others = [other for other in catalog.known() if other.path != model.path]
    removed = move_to_trash(model, settings.models_dir, others)
    delete_trash(settings.models_dir)
    return removed.paths, removed.size
