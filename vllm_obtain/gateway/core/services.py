"""Objects that routes share, created once per worker in `create_app`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from flask import current_app

from vllm_obtain.access.allowed_hosts import AllowedHosts
from vllm_obtain.access.authenticator import Authenticator
from vllm_obtain.access.cors import CorsPolicy
from vllm_obtain.access.trusted_proxies import TrustedProxies
from vllm_obtain.chat.chat_format import ChatFormat, chat_format
from vllm_obtain.config.model_settings import ModelTable
from vllm_obtain.config.settings import Settings
from vllm_obtain.control.client import SupervisorClient
from vllm_obtain.engines import registry
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.gateway.core.body_memory import BodyMemory
from vllm_obtain.gateway.core.cancellation import InFlightRequests
from vllm_obtain.gateway.core.coalescing import Coalescer
from vllm_obtain.gateway.core.connections import Connections
from vllm_obtain.gateway.core.request_reporter import RequestReporter
from vllm_obtain.models import Model, ModelCatalog
from vllm_obtain.tracing.spans import Tracing

EXTENSION = "vllm_obtain"


@dataclass
class Services:
    """The shared objects of one worker."""

    settings: Settings
    catalogue: ModelCatalog
    supervisor: SupervisorClient
    reporter: RequestReporter
    connections: Connections
    coalescer: Coalescer
    authenticator: Authenticator
    allowed_hosts: AllowedHosts
    cors: CorsPolicy
    proxies: TrustedProxies
    tracing: Tracing = field(default_factory=Tracing)
    in_flight: InFlightRequests = field(default_factory=InFlightRequests)
    # The service is stopping: running requests are finished, new ones are rejected.
    draining: bool = False
    # Phase of an upgrade (`middleware/upgrade_hold.py`), and whether this worker has stopped
    # accepting connections because of it.
    phase: str = ""
    closed: bool = False
    _adapters: dict[str, Adapter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Settings of single models; `.of(model.name)` returns those of one.
        self.model_settings: ModelTable = self.settings.models
        self.body_memory = BodyMemory(
            max(self.settings.body_memory_mb, 2 * self.settings.max_body_mb) << 20
        )

    def adapter(self, name: str) -> Adapter:
        """Return the adapter of an engine, created at first use."""
        if name not in self._adapters:
            self._adapters[name] = registry.adapter(name, self.settings)
        return self._adapters[name]

    def chat_format(self, model: Model) -> ChatFormat:
        """Return the chat format of a model.

        Raises:
            TemplateError: the chat template is invalid.
        """
        return chat_format(model, self.model_settings.of(model.name).chat_template)


def current_services() -> Services:
    """Return the services of the app that handles the current request."""
    return cast(Services, current_app.extensions[EXTENSION])
