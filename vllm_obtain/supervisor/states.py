"""The states of an engine, in the order of a life.

    STOPPED ──▶ CONVERTING ──▶ STARTING ──▶ READY ──▶ DRAINING ──▶ STOPPED
                    │             │           │
                    ▼             ▼           ▼
                  FAILED ◀─────────────── CRASHED ──▶ STARTING

STOPPED     nothing runs; a request for the model starts it.
CONVERTING  the model's files are made into what the engine reads; nothing is loaded yet.
STARTING    the process loads; requests wait for it.
READY       a token came out of it; requests are admitted.
DRAINING    it finishes what it has and ends; new requests wait for its successor.
CRASHED     it ended by itself; it is started again after a pause that grows.
FAILED      it could not be started; requests get the reason, the next one tries again.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where an engine is in its life."""

    STOPPED = "stopped"
    CONVERTING = "converting"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    CRASHED = "crashed"
    FAILED = "failed"


OCCUPIES = frozenset({State.STARTING, State.READY, State.DRAINING, State.CRASHED})
