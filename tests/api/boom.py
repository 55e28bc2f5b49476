"""An engine whose adapter has a bug, to see what a client gets to know of it."""

from __future__ import annotations

from typing import Any

from tests.fake_engine import FakeAdapter
from vllm_obtain.protocol.task import Task


class Boom(FakeAdapter):
    name = "boom"

    def body(self, task: Task, max_tokens: int | None) -> dict[str, Any]:
        if task.is_chat:
            raise RuntimeError("hidden detail")
        return super().body(task, max_tokens)
