"""Messages of leases: acquire, adjust, extend and release."""

from __future__ import annotations

from msgspec import Struct

from vllm_obtain.control.messages.base import Count, Reply, Request
from vllm_obtain.protocol.cache_isolation import CacheIsolation


class CallerIdentity(Struct, frozen=True, array_like=True):
    """The caller of a request, and its rate limits.

    Args:
        id: id of the API key, empty where no keys are required.
        requests: allowed requests per minute, 0 for no limit.
        tokens: allowed prompt and completion tokens per minute, 0 for no limit.
        again: whether the request was already counted, as in a retry. It is not rejected then.
    """

    id: str
    requests: int = 0
    tokens: int = 0
    again: bool = False


class EngineLimits(Struct, frozen=True):
    """The capacity of an engine process.

    Args:
        slots: sequences that it can process at the same time.
        pool_tokens: tokens of all sequences together, prompts and completions.
        context: tokens of one sequence, prompt and completion.
    """

    slots: int
    pool_tokens: int
    context: int


class AcquireLease(Request, frozen=True, rename={"prefix_hashes": "trail"}):
    """Load a model if needed, and acquire a lease on it. → LeaseGranted or ErrorReply.

    Closing the connection releases the lease.

    Args:
        model: name of the model in the catalog.
        prompt_tokens: upper bound of the prompt's tokens; `AdjustReservation` corrects it.
        max_tokens: the request's limit, None for as many as the context length allows.
        timeout: seconds to wait for the lease.
        choices: number of completions of the prompt, with `max_tokens` each.
        caller: the caller whose quota is charged, None for no quota.
        fingerprint: content hash of the request, by which it is quarantined if it crashes engines.
        prefix_hashes: hashes of the caller and of the prefixes of its prompt
            (`protocol/cache_isolation.py`); empty where the prefix cache is shared.
    """

    model: str
    prompt_tokens: int
    max_tokens: int | None
    timeout: float
    choices: int = 1
    caller: CallerIdentity | None = None
    fingerprint: bytes = b""
    prefix_hashes: tuple[bytes, ...] = ()


class ChargeQuota(Request, frozen=True):
    """Charge a request that may need no lease. → QuotaCharged or ErrorReply."""

    caller: CallerIdentity


class AdjustReservation(Request, frozen=True):
    """Set the exact number of prompt tokens of the lease. No reply."""

    prompt_tokens: int


class ExtendLease(Request, frozen=True):
    """Ask for more completion tokens for the lease. → LeaseExtended."""

    tokens: int


class ReleaseLease(Request, frozen=True):
    """Release the lease and report its statistics. No reply.

    Args:
        outcome: `stop`, `length`, `cancelled` or `error`.
        prompt_tokens: processed prompt tokens, including cached ones.
        cached_tokens: prompt tokens taken from the prefix cache.
        completion_tokens: generated tokens.
        first_token: seconds from the request's arrival to its first token, None without one.
        generating: seconds from the first token to the last.
        lost: whether the connection to the engine broke, which may mean that it crashed.
    """

    outcome: str
    prompt_tokens: Count = 0
    cached_tokens: Count = 0
    completion_tokens: Count = 0
    first_token: float | None = None
    generating: float = 0.0
    lost: bool = False


class LeaseGranted(Reply, frozen=True, rename={"isolation": "apart"}):
    """A granted lease.

    Args:
        engine: name of the engine.
        socket: path of the engine's socket.
        model: name of the model in the catalog.
        context: context length in tokens.
        tokens: completion tokens that may be generated before `ExtendLease` is needed.
        loaded_at: Unix time at which the engine process became ready; identifies the process.
        headers: rate limit headers for the client, None without limits.
        isolation: cache isolation of the request, None where the prefix cache is shared.
    """

    engine: str
    socket: str
    model: str
    context: int
    tokens: int
    loaded_at: float
    headers: dict[str, str] | None = None
    isolation: CacheIsolation | None = None


class QuotaCharged(Reply, frozen=True):
    """The rate limit headers for the client, after a request was charged."""

    headers: dict[str, str]


class LeaseExtended(Reply, frozen=True):
    """The number of additional tokens that may be generated; 0 if the KV cache is full."""

    tokens: int
