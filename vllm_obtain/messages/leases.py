"""A place on an engine: asked for, corrected, given back."""

from __future__ import annotations

from msgspec import Struct

from vllm_obtain.messages.base import Message
from vllm_obtain.protocol.apart import Apart


class Caller(Struct, frozen=True, array_like=True):
    """Whose request it is.

    Args:
        id: the key's, empty where no keys are needed.
        requests: how many it may send in a minute, 0 for any number.
        tokens: how many it may have read and made in a minute, 0 for any number.
        again: whether this request was counted already; it is not refused any more.
    """

    id: str
    requests: int = 0
    tokens: int = 0
    again: bool = False


class Limits(Struct, frozen=True):
    """What an engine process can hold.

    Args:
        slots: requests at once.
        pool_tokens: tokens over all of them, prompt and completion.
        context: tokens of one request, prompt and completion.
    """

    slots: int
    pool_tokens: int
    context: int


class Acquire(Message, frozen=True):
    """Make this model ready and let me use it. → Granted or Refused. Closing gives it back.

    Args:
        model: its name in the catalogue.
        prompt_tokens: an upper bound; `Settle` corrects it.
        max_tokens: what the request asked for, None for as many as the context holds.
        timeout: seconds after which the answer is of no use.
        choices: how many answers the engine makes to the one prompt, `max_tokens` each.
        caller: on whose account it goes, None for nobody's.
        fingerprint: of what it asks, by which it is known again should it crash its engine.
        trail: marks of the caller and of its prompt (`protocol/apart.py`) where callers must not
            find each other's prompts; empty where they may.
    """

    model: str
    prompt_tokens: int
    max_tokens: int | None
    timeout: float
    choices: int = 1
    caller: Caller | None = None
    fingerprint: bytes = b""
    trail: tuple[bytes, ...] = ()


class Spend(Message, frozen=True):
    """Count a request that may need no lease. → Spent or Refused."""

    caller: Caller


class Settle(Message, frozen=True):
    """The prompt turned out to have this many tokens. No answer."""

    prompt_tokens: int


class Extend(Message, frozen=True):
    """Let me generate this many tokens more than was granted. → Extended."""

    tokens: int


class Release(Message, frozen=True):
    """The request is over; no answer. What it came to is counted here, once, for all workers.

    Args:
        outcome: `stop`, `length`, `cancelled` or `error`.
        prompt_tokens: tokens read, cached ones included.
        cached_tokens: those of them that the engine had already.
        completion_tokens: tokens generated.
        first_token: seconds from the request's arrival to its first token, None if none came.
        generating: seconds from the first token to the last.
        lost: whether the engine broke the connection, which may be its end.
    """

    outcome: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token: float | None = None
    generating: float = 0.0
    lost: bool = False


class Granted(Message, frozen=True):
    """A lease.

    Args:
        engine: the name of its adapter.
        socket: where the engine listens.
        model: the model's name in the catalogue.
        context: tokens one request may hold.
        tokens: how many may be generated before `Extend` is needed.
        loaded_at: when this engine process started; tells it from its successor.
        headers: what is left to the caller, for its client; None without limits.
        apart: what keeps its prompt from other callers'; None where it may be shared.
    """

    engine: str
    socket: str
    model: str
    context: int
    tokens: int
    loaded_at: float
    headers: dict[str, str] | None = None
    apart: Apart | None = None


class Spent(Message, frozen=True):
    """It is counted; what is left to the caller, as headers for its client."""

    headers: dict[str, str]


class Extended(Message, frozen=True):
    """How many tokens more may be generated; 0 when the cache is full."""

    tokens: int
