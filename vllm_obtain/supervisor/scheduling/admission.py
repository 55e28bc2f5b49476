"""Admission control of one engine process: slots and KV cache tokens, in fair order.

A request reserves its prompt and completion tokens before it starts, so the engine's KV cache
cannot overflow while requests run. A request without `max_tokens` reserves a share, and extends it
during generation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.supervisor.scheduling.fair_queue import FairQueue
from vllm_obtain.supervisor.scheduling.quarantine import InFlight
from vllm_obtain.supervisor.scheduling.slot_affinity import SlotAffinity, Trail

# Minimum tokens of the first grant to a request without max_tokens.
MIN_SHARE = 256


class EngineGone(Exception):
    """The process ended before the request was admitted. Another one may start."""


class Ticket:
    """A request for admission, and its reservation.

    Args:
        prompt_tokens: upper bound or exact number of prompt tokens.
        max_tokens: the request's limit, None for as many as the context length allows.
        choices: number of completions, each with `max_tokens` and a slot.
        fingerprint: content hash of the request, empty if unknown.
        check: called with the engine's name before admission. Returns the seconds that the request
            must run alone, or 0; raises if it is quarantined.
        caller: id of the caller, for the fair queue.
        prefix_hashes: hashes for `slot_affinity`; empty where callers share the prefix cache.
    """

    def __init__(
        self,
        prompt_tokens: int,
        max_tokens: int | None,
        choices: int = 1,
        fingerprint: bytes = b"",
        check: Callable[[str], float] | None = None,
        caller: str = "",
        prefix_hashes: Trail = (),
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.choices = choices
        self.granted = 0
        self.fingerprint = fingerprint
        self.check = check
        self.caller = caller
        self.prefix_hashes = prefix_hashes
        # The slot to use, and whether it has another caller's prompt.
        self.slot: int | None = None
        self.foreign = True
        self.alone = False
        self.admitted_at = 0.0  # monotonic seconds
        self.future: asyncio.Future[None] | None = None

    @property
    def reserved(self) -> int:
        """Reserved tokens of the pool."""
        return self.prompt_tokens + self.granted

    def reject(self, error: Exception) -> None:
        """End the wait for admission with an error."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


class AdmissionQueue:
    """The running and queued requests of one engine process.

    Requests that arrive before the process is ready wait here too. They are admitted as soon as it
    is ready and count as its users, so it is not evicted before.

    Args:
        limits: capacity of the process; None while it is not ready.
        engine_name: name of the engine.
        isolates_by_slot: whether the engine isolates callers by slot.
    """

    def __init__(
        self,
        limits: EngineLimits | None = None,
        engine_name: str = "",
        isolates_by_slot: bool = False,
    ) -> None:
        self._limits = limits
        self._engine_name = engine_name
        self._isolates_by_slot = isolates_by_slot
        self._admitted: set[Ticket] = set()
        self._waiting: FairQueue[Ticket] = FairQueue()
        self._reserved = 0
        self._slots = 0
        self._affinity: SlotAffinity | None = None
        self._closed: Exception | None = None
        # Requests whose connection broke, which may mean that the process has crashed.
        self._broken: list[Ticket] = []
        self._paused = False

    @property
    def in_flight(self) -> int:
        return len(self._admitted)

    @property
    def in_flight_requests(self) -> list[InFlight]:
        """The admitted requests, and those whose connection broke."""
        now = time.monotonic()
        return [
            InFlight(ticket.fingerprint, now - ticket.admitted_at)
            for ticket in (*self._admitted, *self._broken)
        ]

    @property
    def queue(self) -> int:
        return len(self._waiting)

    @property
    def reserved(self) -> int:
        """The number of reserved tokens."""
        return self._reserved

    def try_acquire(self, ticket: Ticket) -> bool:
        """Admit a request if it fits and the queue is empty.

        Raises:
            InvalidRequest: the request can never fit.
        """
        return not self._waiting and self._admit(ticket)

    async def acquire(self, ticket: Ticket) -> None:
        """Wait until a request is admitted.

        Raises:
            EngineGone: the process ended meanwhile.
            ServiceError: the process did not start, or the request can never fit.
        """
        if self._closed is not None:
            raise self._closed
        if self.try_acquire(ticket):
            return
        ticket.future = asyncio.get_running_loop().create_future()
        self._waiting.add(ticket)
        # It may be the next one, even if others have waited longer.
        self._admit_next()
        try:
            await ticket.future
        except BaseException:
            self.release(ticket)
            raise

    def release(self, ticket: Ticket, broken: bool = False, used: int = 0) -> None:
        """Release the reservation of a request, or remove it from the queue; idempotent.

        Args:
            ticket: the request.
            broken: whether its connection broke, so that it counts as in flight at a crash.
            used: processed prompt tokens and generated tokens.
        """
        if ticket in self._admitted:
            if broken:
                self._broken.append(ticket)
            self._admitted.remove(ticket)
            self._waiting.adjust(ticket.caller, used - ticket.reserved)
            self._reserved -= ticket.reserved
            self._slots -= ticket.choices
            self._unpin(ticket, used > 0)
        elif ticket in self._waiting:
            self._waiting.remove(ticket)
        self._admit_next()

    def adjust(self, ticket: Ticket, prompt_tokens: int) -> None:
        """Replace the upper bound of the prompt tokens by the exact number.

        The freed tokens go to the request's own completion first, then to the queue.
        """
        if ticket not in self._admitted or self._limits is None:
            return
        before = ticket.reserved
        ticket.prompt_tokens = prompt_tokens
        if ticket.max_tokens is not None:
            available = max(0, self._limits.context - prompt_tokens)
            ticket.granted = ticket.choices * min(ticket.max_tokens, available)
        self._count(ticket, ticket.reserved - before)
        self._admit_next()

    def extend(self, ticket: Ticket, tokens: int) -> int:
        """Grant more tokens to a running request, before queued ones: it must be able to finish.

        Returns:
            The number of granted tokens; 0 if the pool is full.
        """
        if ticket not in self._admitted or self._limits is None:
            return 0
        granted = min(tokens, self._limits.pool_tokens - self._reserved)
        if granted <= 0:
            return 0
        ticket.granted += granted
        self._count(ticket, granted)
        return granted

    def clear_suspicion(self) -> None:
        """Resume admission: the process runs, although a connection to it broke."""
        self._broken.clear()
        self._admit_next()

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self, paused: bool) -> None:
        """Pause or resume admission. Running requests continue."""
        self._paused = paused
        self._admit_next()

    def open(self, limits: EngineLimits, engine_name: str, isolates_by_slot: bool) -> None:
        """Start admission: the process is ready. Arguments as for the constructor."""
        self._limits = limits
        self._engine_name = engine_name
        self._isolates_by_slot = isolates_by_slot
        self._admit_next()

    def close(self, reason: Exception | None = None) -> None:
        """Stop admission and reject the queue, since the process ended or drains.

        Args:
            reason: the error for queued requests; None for EngineGone.
        """
        self._closed = reason or EngineGone()
        for ticket in self._waiting.clear():
            ticket.reject(self._closed)

    def _admit(self, ticket: Ticket) -> bool:
        limits = self._limits
        if limits is None or self._closed is not None or self._paused:
            return False
        if self._broken:
            return False  # the process may have crashed
        # A request can never use more than the pool, even if the context length is larger.
        context = min(limits.context, limits.pool_tokens)
        prompt = min(ticket.prompt_tokens, context)
        free = limits.pool_tokens - self._reserved
        granted = _grant(ticket, context, limits, free - prompt)
        _check(ticket, prompt + granted, limits)
        if prompt + granted > free or self._slots + ticket.choices > limits.slots:
            return False
        if not self._isolate_suspect(ticket) or not self._pin(ticket, limits):
            return False
        ticket.prompt_tokens, ticket.granted = prompt, granted
        ticket.admitted_at = time.monotonic()
        self._admitted.add(ticket)
        self._reserved += ticket.reserved
        self._waiting.charge(ticket.caller, ticket.reserved)
        self._slots += ticket.choices
        return True

    def _isolate_suspect(self, ticket: Ticket) -> bool:
        """Whether the request may run beside the admitted ones; a suspect must run alone."""
        seconds = ticket.check(self._engine_name) if ticket.check is not None else 0.0
        if (seconds and self._admitted) or any(each.alone for each in self._admitted):
            return False
        if seconds:
            ticket.alone = True
            asyncio.get_running_loop().call_later(seconds, self._end_probation, ticket)
        return True

    def _pin(self, ticket: Ticket, limits: EngineLimits) -> bool:
        """Assign a slot if this engine isolates callers by slots.

        The engine spreads several choices over any idle slots, also over one that was assigned to
        a request which has not arrived yet. So a request with several choices runs alone.
        """
        if not ticket.prefix_hashes or not self._isolates_by_slot:
            return True
        several = ticket.choices > 1
        if any(several or each.choices > 1 for each in self._admitted if each.slot is not None):
            return False
        self._affinity = self._affinity or SlotAffinity(limits.slots)
        ticket.slot, ticket.foreign = self._affinity.take(ticket.prefix_hashes)
        return True

    def _unpin(self, ticket: Ticket, used: bool) -> None:
        if ticket.slot is None or self._affinity is None:
            return
        self._affinity.release(ticket.slot, used)
        ticket.slot = None
        if ticket.choices > 1:
            self._affinity.forget()

    def _end_probation(self, ticket: Ticket) -> None:
        """Allow other requests beside a suspect that has not crashed the engine."""
        ticket.alone = False
        self._admit_next()

    def _count(self, ticket: Ticket, tokens: int) -> None:
        self._reserved += tokens
        self._waiting.adjust(ticket.caller, tokens)

    def _admit_next(self) -> None:
        while self._waiting:
            ticket = self._waiting.peek()
            future = ticket.future
            if future is None or future.done():
                self._waiting.remove(ticket)
                continue
            try:
                if not self._admit(ticket):
                    return
                future.set_result(None)
            except InvalidRequest as error:
                future.set_exception(error)
            self._waiting.remove(ticket)


def _check(ticket: Ticket, tokens: int, limits: EngineLimits) -> None:
    if ticket.choices > limits.slots:
        raise InvalidRequest(
            f"n={ticket.choices} exceeds the engine's limit of {limits.slots} parallel sequences. "
            "Lower n, or raise MAX_CONCURRENT_REQUESTS.",
            param="n",
        )
    if tokens > limits.pool_tokens:
        raise InvalidRequest(
            f"The prompt and n={ticket.choices} completions need up to {tokens} tokens, which "
            f"exceeds the engine's KV cache of {limits.pool_tokens}. Lower n or max_tokens.",
            param="n",
        )


def _grant(ticket: Ticket, context: int, limits: EngineLimits, free: int) -> int:
    """Return the tokens of the first grant: `max_tokens`, or a share of the pool without it.

    Args:
        ticket: the request.
        context: context length in tokens.
        limits: capacity of the engine.
        free: free tokens of the pool after the prompt.
    """
    prompt, choices = min(ticket.prompt_tokens, context), ticket.choices
    if ticket.max_tokens is not None:
        # If the prompt is shorter than its bound, each completion may be longer. With several
        # completions, the total is largest when the prompt just does not limit them.
        prompt_tokens = min(prompt, max(0, context - ticket.max_tokens))
        return prompt_tokens + choices * min(ticket.max_tokens, context - prompt_tokens) - prompt
    share = max(MIN_SHARE, limits.pool_tokens // limits.slots // 2)
    available = min(choices * (context - prompt), limits.pool_tokens - prompt)
    return min(available, max(choices * share, free // 4))
