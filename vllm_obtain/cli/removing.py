"""Removing a model of this machine: by the service that runs, if one does."""

from __future__ import annotations

from vllm_obtain.catalogue import Catalogue
from vllm_obtain.cli.client import fail
from vllm_obtain.errors import ServiceError, SettingsError
from vllm_obtain.fetching.placing import empty_bins
from vllm_obtain.fetching.removing import take_away
from vllm_obtain.messages import Remove, Removed
from vllm_obtain.settings import Settings, load_settings
from vllm_obtain.supervisor import runtime
from vllm_obtain.supervisor.client import Line


def remove_here(name: str) -> tuple[list[str], int]:
    """Remove a model.

    Returns:
        What is gone, below MODELS_DIR, and its bytes.
    """
    try:
        settings = load_settings()
        try:
            return _by_service(name, settings)
        except OSError:  # none runs, so nobody uses it
            return _alone(name, settings)
    except (ServiceError, SettingsError) as error:
        raise fail(error) from None


def _by_service(name: str, settings: Settings) -> tuple[list[str], int]:
    # Only the supervisor knows who uses what; its socket is this user's alone.
    with Line(runtime.home(settings.port) / runtime.CONTROL) as line:
        gone = line.ask(Remove(name), Removed, 120)
    return gone.paths, gone.size


def _alone(name: str, settings: Settings) -> tuple[list[str], int]:
    catalogue = Catalogue(settings.models_dir, table=settings.models)
    model = catalogue.find(name)
    others = [each for each in catalogue.known() if each.path != model.path]
    gone = take_away(model, settings.models_dir, others)
    empty_bins(settings.models_dir)
    return gone.paths, gone.size
