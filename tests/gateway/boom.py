"""An engine whose adapter has a bug, to see what a client gets to know of it."""

from __future__ import annotations

from typing import Any

from tests.fake_engine import FakeAdapter
from vllm_obtain.protocol.engine_request import EngineRequest


class Boom(FakeAdapter):
    name = "boom"

    def body(self, engine_request: EngineRequest, max_tokens: int | None) -> dict[str, Any]:
        if engine_request.is_chat:
            raise RuntimeError("hidden detail")
        return super().body(engine_request, max_tokens)
