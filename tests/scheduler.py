"""Which tests share a worker of pytest-xdist, and which begin first."""

from __future__ import annotations

import re

import pytest
from xdist.scheduler import LoadScopeScheduling

# What takes longest begins first, so that no worker is left with it while the others idle.
FIRST = (
    "tests/contract/",
    "tests/gateway/test_openapi.py",
    "tests/cli/test_update.py",
    "tests/server/test_entry_points.py",
    "tests/vision/",
    "tests/gateway/test_embeddings.py",
    "tests/engines/",
    "tests/test_",
    "tests/gateway/",
)
_ENGINE = re.compile(r"^tests/contract/.*\[(llama_cpp|mlx|vllm)\b")
# vLLM takes most of a machine's memory: one worker runs all of its tests, on one service.
_VLLM = re.compile(r"\[vllm\b|vllm/test_real_engine\.py|^tests/vision/test_vllm\.py")


class Scheduler(LoadScopeScheduling):
    """A worker runs all tests of a module, or the contract of an engine."""

    def _split_scope(self, nodeid: str) -> str:
        if _VLLM.search(nodeid):
            return "vllm"
        if found := _ENGINE.match(nodeid):
            return f"contract on {found[1]}"
        return str(super()._split_scope(nodeid))


def longest_first(items: list[pytest.Item]) -> None:
    """Put tests in the order in which workers shall be given them."""
    items.sort(key=lambda item: _place(item.nodeid))


def _place(nodeid: str) -> int:
    if _VLLM.search(nodeid):
        return -1
    starts = (place for place, start in enumerate(FIRST) if nodeid.startswith(start))
    return next(starts, len(FIRST))
