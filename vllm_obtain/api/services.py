"""What the routes work with, made once per process in `create_app`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from flask import current_app

from vllm_obtain.access.hosts import Hosts
from vllm_obtain.access.keys import Keys
from vllm_obtain.access.origins import Origins
from vllm_obtain.api.cancel import Working
from vllm_obtain.api.connections import Connections
from vllm_obtain.api.flights import Flights
from vllm_obtain.api.reporter import Reporter
from vllm_obtain.catalogue import Catalogue, Model
from vllm_obtain.chat.speaker import Speaker, speaker
from vllm_obtain.engines import registry
from vllm_obtain.engines.base import Adapter
from vllm_obtain.model_settings import ModelTable
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.client import Supervisor
from vllm_obtain.tracing.spans import Tracing

EXTENSION = "vllm_obtain"


@dataclass
class Services:
    """The parts of one gateway process."""

    settings: Settings
    catalogue: Catalogue
    supervisor: Supervisor
    reporter: Reporter
    connections: Connections
    flights: Flights
    keys: Keys
    hosts: Hosts
    origins: Origins
    tracing: Tracing = field(default_factory=Tracing)
    working: Working = field(default_factory=Working)
    # Whether the service is ending: what runs is finished, nothing new is begun.
    draining: bool = False
    # How far its replacement by a new version is (`api/moving.py`), and whether this process has
    # stopped taking connections for it.
    phase: str = ""
    closed: bool = False
    _adapters: dict[str, Adapter] = field(default_factory=dict)

    @property
    def model_settings(self) -> ModelTable:
        """What the owner set for single models; `.of(model.name)`."""
        return self.settings.models

    def adapter(self, name: str) -> Adapter:
        """The adapter of an engine, made once."""
        if name not in self._adapters:
            self._adapters[name] = registry.adapter(name, self.settings)
        return self._adapters[name]

    def speaker(self, model: Model) -> Speaker:
        """How a model talks.

        Raises:
            TemplateError: its chat template is broken.
        """
        return speaker(model, self.model_settings.of(model.name).chat_template)


def services() -> Services:
    """The services of the app that handles this request."""
    return cast(Services, current_app.extensions[EXTENSION])
