"""The states of an engine.

    STOPPED ──▶ CONVERTING ──▶ STARTING ──▶ READY ──▶ DRAINING ──▶ STOPPED
                    │             │           │
                    ▼             ▼           ▼
                  FAILED ◀─────────────── CRASHED ──▶ STARTING

STOPPED     no process. A request for the model starts it.
CONVERTING  the model's files are converted for the engine. No process yet.
STARTING    the process loads the model. Requests wait.
READY       the engine has generated a token. Requests are admitted.
DRAINING    the engine finishes its requests and stops. New requests wait for the next process.
CRASHED     the process ended unexpectedly. It restarts after a growing delay.
FAILED      the start failed. Waiting requests get the reason; the next request tries again.
"""

from __future__ import annotations

from enum import StrEnum


class EngineState(StrEnum):
    """State of an engine."""

    STOPPED = "stopped"
    CONVERTING = "converting"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    CRASHED = "crashed"
    FAILED = "failed"


OCCUPIES = frozenset(
    {EngineState.STARTING, EngineState.READY, EngineState.DRAINING, EngineState.CRASHED}
)
