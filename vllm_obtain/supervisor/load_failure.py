"""What a client is told about a model that could not be loaded."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_obtain.errors import EngineFailed, ServiceError, StartError
from vllm_obtain.supervisor.probe import NotReady

# Lines of the engine's output that the error shows; the log has more.
SHOWN_LINES = 4


def explain(error: Exception, model: str, engine: str, output: Sequence[str]) -> ServiceError:
    """Turn whatever stopped a load into an error that says what to do.

    Args:
        error: what happened.
        model: the model's name.
        engine: the engine's name.
        output: the engine's last lines.
    """
    if isinstance(error, ServiceError):
        return error
    expected = isinstance(error, NotReady | StartError)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    said = " | ".join(output[-SHOWN_LINES:]) or "(it said nothing)"
    return EngineFailed(
        f"'{model}' could not be loaded by {engine}: {reason.rstrip('.')}. Its last lines: {said}",
        status=503,
        code="model_load_failed",
        retry=False,
    )


def unloaded(model: str) -> ServiceError:
    """Make the error for those who waited for a load that was called off."""
    return EngineFailed(
        f"'{model}' was unloaded before it was ready. Ask again to load it.",
        status=503,
        code="model_unloaded",
        retry_after=1,
    )
