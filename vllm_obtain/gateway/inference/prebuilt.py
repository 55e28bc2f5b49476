"""Builds the engine request while the supervisor decides about the lease."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_obtain.control.messages import LeaseGranted
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.engines.connection import EngineConnection
from vllm_obtain.errors import ServiceError
from vllm_obtain.protocol.engine_request import EngineRequest

# Maximum prompt tokens. A request may wait minutes for its lease, and a prebuilt long prompt would
# use memory twice.
LONGEST = 16_384


@dataclass(frozen=True)
class PrebuiltRequest:
    """The request for one engine, and the connection to send it over.

    Args:
        adapter: of the engine.
        socket: path of its socket.
        connection: not connected yet; the caller closes it.
        url: the path of the engine's route.
        body: what to send, as JSON.
    """

    adapter: Adapter
    socket: str
    connection: EngineConnection
    url: str
    body: dict[str, Any]

    def fits(self, granted: LeaseGranted) -> bool:
        """Whether the request is for the engine process of a lease."""
        return self.adapter.name == granted.engine and self.socket == granted.socket


class RequestPrebuilder:
    """Builds the engine request of one HTTP request.

    Args:
        adapters: returns the adapter of an engine by name.
        deadline: monotonic seconds after which a response is of no use.
        keep_alive: as in `EngineConnection`.
        headers: additional HTTP headers for the engine.
    """

    def __init__(
        self,
        adapters: Callable[[str], Adapter],
        deadline: float,
        keep_alive: float | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        self._adapters = adapters
        self._deadline = deadline
        self._keep_alive = keep_alive
        self._headers = headers
        self._prebuilt: PrebuiltRequest | None = None

    def prebuild(
        self, last: LeaseGranted | None, engine_request: EngineRequest, length: int
    ) -> None:
        """Build the request for the engine that served the model last.

        Errors are ignored: `build` raises them again if that engine is assigned.

        Args:
            last: the previous lease; None if there was none.
            engine_request: the prompt and its parameters.
            length: upper bound of the prompt's tokens.
        """
        if last is None or engine_request.images or length > LONGEST:
            return
        with contextlib.suppress(ServiceError, OSError):
            adapter = self._adapters(last.engine)
            adapter.check(engine_request)
            self._prebuilt = self.build(adapter, last, engine_request)

    def take(self, granted: LeaseGranted) -> PrebuiltRequest | None:
        """Return the prebuilt request if it is for the engine process of the lease, else None."""
        if self._prebuilt is None or not self._prebuilt.fits(granted):
            self.close()
            return None
        prebuilt, self._prebuilt = self._prebuilt, None
        return prebuilt

    def build(
        self, adapter: Adapter, granted: LeaseGranted, engine_request: EngineRequest
    ) -> PrebuiltRequest:
        """Build the request for the engine of a lease.

        Args:
            adapter: of the engine.
            granted: the lease.
            engine_request: the prompt and its parameters, checked by the adapter.
        """
        url = adapter.path(engine_request)
        body = adapter.body(engine_request, engine_request.params.max_tokens)
        connection = EngineConnection(
            granted.socket, self._deadline, self._keep_alive, self._headers
        )
        return PrebuiltRequest(adapter, granted.socket, connection, url, body)

    def close(self) -> None:
        """Drop an unused prebuilt request."""
        if self._prebuilt is not None:
            self._prebuilt.connection.close()
            self._prebuilt = None
