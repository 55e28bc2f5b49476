"""What a client is told about a model that could not be loaded."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_obtain.errors import EngineFailed, InvalidRequest, ServiceError, StartError
from vllm_obtain.supervisor.conversion import NotConverted
from vllm_obtain.supervisor.probe import NotReady

# Lines of the engine's output that the error shows; the log has more.
SHOWN_LINES = 4
_SIGNALS = {134: " (SIGABRT)", 137: " (SIGKILL)", 139: " (SIGSEGV)", 143: " (SIGTERM)"}


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
    if isinstance(error, NotConverted):
        return _not_converted(model, engine, str(error))
    expected = isinstance(error, NotReady | StartError)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    said = " | ".join(output[-SHOWN_LINES:]) or "(it said nothing)"
    return EngineFailed(
        f"'{model}' could not be loaded by {engine}: {reason.rstrip('.')}. Its last lines: {said}",
        status=503,
        code="model_load_failed",
        retry=False,
    )


def ended(status: int) -> str:
    """Describe the end of a process that nobody asked to end."""
    return f"ended by itself with status {status}{_SIGNALS.get(status, '')}"


def unloaded(model: str) -> ServiceError:
    """Make the error for those who waited for a load that was called off."""
    return EngineFailed(
        f"'{model}' was unloaded before it was ready. Ask again to load it.",
        status=503,
        code="model_unloaded",
        retry_after=1,
    )


class NoPlace(EngineFailed):
    """No other engine would get a place either."""


def no_place(model: str, pinned: Sequence[str], places: int) -> NoPlace:
    """Make the error for a model that would have to wait for ever."""
    return NoPlace(
        f"'{model}' cannot be loaded: pinned models ({', '.join(pinned)}) hold all places "
        f"(MAX_CONCURRENT_MODELS={places}). Raise it, or unload one of them.",
        status=503,
        code="no_place_for_model",
        retry=False,
    )


def superseded(model: str, engine: str) -> ServiceError:
    """Make the error for those who waited for a load that another engine took the place of."""
    return EngineFailed(
        f"Loading '{model}' was called off: somebody asked for it on {engine}.",
        status=503,
        code="model_load_superseded",
        retry_after=1,
    )


def busy(model: str, engine: str) -> ServiceError:
    """Make the error for a second, different switch."""
    return InvalidRequest(
        f"'{model}' is being moved to {engine} already. Ask again when that is done, or unload "
        "the model to call it off.",
        status=409,
        code="switch_under_way",
        param="engine",
    )


def stays(error: ServiceError, engine: str) -> ServiceError:
    """Add to the reason of a failed switch that the engine before serves on."""
    return _reworded(error, f"{_plain(error)}. {engine} serves the model as before.")


def neither(error: ServiceError, second: ServiceError) -> ServiceError:
    """Make the error for a switch that failed, after which the engine before failed too."""
    return _reworded(second, f"{_plain(error)}. Nor did the one before start: {second.message}")


def _plain(error: ServiceError) -> str:
    return error.message.rstrip(".")


def _reworded(error: ServiceError, message: str) -> ServiceError:
    return EngineFailed(
        message,
        param=error.param,
        code=error.code,
        status=error.status,
        retry_after=error.retry_after,
        retry=error.retry,
    )


def _not_converted(model: str, engine: str, reason: str) -> ServiceError:
    """Make the error for a model whose files could not be made into what an engine reads."""
    return EngineFailed(
        f"'{model}' could not be converted for {engine}: {reason}",
        status=503,
        code="conversion_failed",
        retry=False,
    )
