"""Errors of failed loads and switches."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_obtain.errors import EngineFailed, InvalidRequest, ServiceError, StartError
from vllm_obtain.supervisor.engine.conversion import NotConverted
from vllm_obtain.supervisor.engine.readiness import NotReady

# Lines of the engine's output in the error message. The log has more.
SHOWN_LINES = 4
_SIGNALS = {134: "SIGABRT", 137: "SIGKILL", 139: "SIGSEGV", 143: "SIGTERM"}


def explain(error: Exception, model: str, engine: str, output: Sequence[str]) -> ServiceError:
    """Convert the exception of a failed load into an error for clients.

    Args:
        error: the exception.
        model: name of the model.
        engine: name of the engine.
        output: last lines of the engine's output.
    """
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, NotConverted):
        return _not_converted(model, engine, str(error))
    expected = isinstance(error, NotReady | StartError)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    lines = " | ".join(output[-SHOWN_LINES:]) or "(no output)"
    return EngineFailed(
        f"{engine} could not load '{model}': {reason.rstrip('.')}. "
        f"Last lines of its output: {lines}",
        status=503,
        code="model_load_failed",
        retry=False,
    )


def describe_exit(status: int) -> str:
    """Describe an unexpected end of an engine process."""
    signal = _SIGNALS.get(status)
    cause = f"killed by {signal} " if signal else ""
    return f"engine exited: {cause}(exit status {status})"


def unloaded(model: str) -> ServiceError:
    """Create the error for requests that waited for a cancelled load."""
    return EngineFailed(
        f"'{model}' was unloaded before it was ready. Try again to load it.",
        status=503,
        code="model_unloaded",
        retry_after=1,
    )


class NoPlace(EngineFailed):
    """Pinned models leave no capacity, for any engine."""


def no_place(model: str, pinned: Sequence[str], limit: int) -> NoPlace:
    """Create the error for a model that can never be loaded beside the pinned ones."""
    return NoPlace(
        f"'{model}' cannot be loaded: pinned models ({', '.join(pinned)}) occupy all of "
        f"MAX_CONCURRENT_MODELS={limit}. Raise the limit, or unload one of them.",
        status=503,
        code="no_place_for_model",
        retry=False,
    )


def superseded(model: str, engine: str) -> ServiceError:
    """Create the error for requests that waited for a load on another engine."""
    return EngineFailed(
        f"The load of '{model}' was cancelled, since it was requested on {engine}. Try again.",
        status=503,
        code="model_load_superseded",
        retry_after=1,
    )


def busy(model: str, engine: str) -> ServiceError:
    """Create the error for a second switch to a different engine."""
    return InvalidRequest(
        f"'{model}' is already being switched to {engine}. Try again when that is done, or "
        "unload the model to cancel it.",
        status=409,
        code="switch_under_way",
        param="engine",
    )


def switch_failed(error: ServiceError, engine: str) -> ServiceError:
    """Create the error for a failed switch after which the previous engine serves the model."""
    return _reworded(error, f"{_plain(error)}. {engine} still serves the model.")


def switch_and_restart_failed(error: ServiceError, second: ServiceError) -> ServiceError:
    """Create the error for a failed switch after which the previous engine failed too."""
    return _reworded(
        second, f"{_plain(error)}. The previous engine did not restart: {second.message}"
    )


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
    """Create the error for a failed conversion."""
    return EngineFailed(
        f"The conversion of '{model}' for {engine} failed: {reason}",
        status=503,
        code="conversion_failed",
        retry=False,
    )
