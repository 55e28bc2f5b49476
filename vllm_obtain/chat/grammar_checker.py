"""Checks grammars and arguments of tool calls in the sandbox, and remembers the grammars."""

from __future__ import annotations

import functools
import hashlib
import os

from vllm_obtain.chat import sandbox
from vllm_obtain.chat.sandbox import LimitExceeded
from vllm_obtain.errors import ServiceError

# Cached results, by the grammar's hash: grammars have up to half a megabyte.
_MOST_KNOWN = 1024
_TOO_MUCH = {
    "time": "it takes too long to compile",
    "memory": "it takes too much memory to compile",
}
_TOO_DEEP = "it is too large, or nested too deeply"


def problem(grammar: str) -> str:
    """Check a grammar.

    Returns:
        The problem as the start of a sentence; empty if engines can enforce the grammar.

    Raises:
        ServiceError, ClientDisconnected: as in `sandbox.run`.
    """
    known = _known(os.getpid())
    key = hashlib.blake2b(grammar.encode(), digest_size=24).digest()
    if (result := known.get(key)) is not None:
        return result
    try:
        result = str(sandbox.run("grammar", grammar))
    except LimitExceeded as error:
        # Not remembered: a busy machine and a large neighbour are limits too.
        return _reason(error)
    if len(known) >= _MOST_KNOWN:
        known.pop(next(iter(known)), None)
    known[key] = result
    return result


def lark(grammar: str) -> tuple[str, str]:
    """Convert a grammar in Lark or llama.cpp's GBNF to Lark.

    Returns:
        The grammar, and why it cannot be converted; one of them is empty.

    Raises:
        ServiceError, ClientDisconnected: as in `sandbox.run`.
    """
    try:
        converted, problem = sandbox.run("lark", grammar)
    except LimitExceeded as error:
        return "", _reason(error)
    return converted, problem


def limit_problem(grammar: str) -> str:
    """Check the repetitions in a grammar of a client; returns as `grammar_limits.grammar_problem`.

    Raises:
        ServiceError, ClientDisconnected: as in `sandbox.run`.
    """
    try:
        return str(sandbox.run("limits", grammar))
    except LimitExceeded as error:
        return _reason(error)


def violations(schema: bytes, value: str) -> list[str] | None:
    """Validate a JSON value.

    Args:
        schema: a JSON Schema.
        value: the value as JSON.

    Returns:
        The keywords that the value violates; None if it could not be validated.
    """
    try:
        found: list[str] | None = sandbox.run("violations", schema.decode(), value)
    except (LimitExceeded, ServiceError):
        return None
    return found


def _reason(error: LimitExceeded) -> str:
    return _TOO_MUCH.get(error.reason, _TOO_DEEP)


@functools.cache
def _known(pid: int) -> dict[bytes, str]:  # noqa: ARG001 - a forked process has its own
    return {}
