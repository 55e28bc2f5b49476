"""An engine whose adapter has a bug, to see what a client gets to know of it."""

from __future__ import annotations

from typing import Any

from tests.fake_engine import FakeAdapter


class Boom(FakeAdapter):
    name = "boom"

    def chat_body(self, *_: object) -> dict[str, Any]:
        raise RuntimeError("hidden detail")
