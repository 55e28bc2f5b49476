"""Who may use one engine process now: slots and tokens, in the order of `turns`.

Every request reserves the tokens it can take before it starts, so the engine's cache can never
run full under running requests. A request without `max_tokens` reserves a share and asks for
more as it goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.messages import Limits
from vllm_obtain.supervisor.slots import Slots, Trail
from vllm_obtain.supervisor.turns import Turns

if TYPE_CHECKING:
    from vllm_obtain.supervisor.engine import Engine

# The least that a request without max_tokens is granted at once.
MIN_SHARE = 256
# Seconds that a suspect of a crash has the engine to itself; long enough for one to show.
PROBATION = 5.0


class EngineGone(Exception):
    """The process ended before the request got its place; there may be another one."""


class Ticket:
    """One request's place.

    Args:
        prompt_tokens: upper bound or exact number.
        wanted: tokens it asked for, None for as many as the context holds.
        choices: answers to its prompt, that many tokens and a slot each.
        fingerprint: of what it asks, empty when that is not known.
        vet: called with the engine's name before it gets a place: whether it has to be alone;
            raises when it must not be asked at all.
        caller: whose it is, for fairness between callers.
        trail: where callers must not find each other's prompts; see `slots`.
    """

    def __init__(
        self,
        prompt_tokens: int,
        wanted: int | None,
        choices: int = 1,
        fingerprint: bytes = b"",
        vet: Callable[[str], bool] | None = None,
        caller: str = "",
        trail: Trail = (),
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.wanted = wanted
        self.choices = choices
        self.granted = 0
        self.fingerprint = fingerprint
        self.vet = vet
        self.caller = caller
        self.trail = trail
        # The slot it has to use, and whether another caller's prompt is in it.
        self.slot: int | None = None
        self.foreign = True
        self.alone = False
        self.turn: asyncio.Future[None] | None = None

    @property
    def reserved(self) -> int:
        """Tokens held in the pool."""
        return self.prompt_tokens + self.granted


class Admission:
    """The places of one engine process, for its whole life.

    Whoever comes before the process is ready waits here too. So they hold their places from the
    moment it is ready, and count as its users: nobody can evict it from under them.

    Args:
        limits: what the process can hold; None while it is not ready.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits
        self._holders: set[Ticket] = set()
        self._waiting: Turns[Ticket] = Turns()
        self._reserved = 0
        self._slots = 0
        self._pinned: Slots | None = None
        self._closed: Exception | None = None
        # Those whose connection broke, which may be the end of the process.
        self._broken: list[Ticket] = []
        self._paused = False
        # Whose process it is; nobody's while those who wait do not know which engine comes.
        self.engine: Engine | None = None

    @property
    def in_flight(self) -> int:
        """Requests that hold a place."""
        return len(self._holders)

    @property
    def there(self) -> list[bytes]:
        """The fingerprints of all that the process has, or had when it broke off."""
        return [ticket.fingerprint for ticket in (*self._holders, *self._broken)]

    @property
    def queue(self) -> int:
        """Requests that wait for one."""
        return len(self._waiting)

    @property
    def reserved(self) -> int:
        """Tokens held over all places."""
        return self._reserved

    def try_enter(self, ticket: Ticket) -> bool:
        """Take a place if there is one and nobody waits before this request.

        Raises:
            InvalidRequest: its choices will never fit.
        """
        return not self._waiting and self._admit(ticket)

    async def enter(self, ticket: Ticket) -> None:
        """Wait for a place.

        Raises:
            EngineGone: the process ended meanwhile.
            ServiceError: it could not be started, or can never hold this request.
        """
        if self._closed is not None:
            raise self._closed
        if self.try_enter(ticket):
            return
        ticket.turn = asyncio.get_running_loop().create_future()
        self._waiting.add(ticket)
        # It may be its turn, though others have waited longer.
        self._next()
        try:
            await ticket.turn
        except BaseException:
            self.leave(ticket)
            raise

    def leave(self, ticket: Ticket, broken: bool = False, used: int = 0) -> None:
        """Give a place back, or stop waiting for one; a second time does nothing.

        Args:
            ticket: the place.
            broken: whether the process broke off; if that is its end, it was there.
            used: tokens that were read and made in it.
        """
        if ticket in self._holders:
            if broken:
                self._broken.append(ticket)
            self._holders.remove(ticket)
            self._waiting.correct(ticket.caller, used - ticket.reserved)
            self._reserved -= ticket.reserved
            self._slots -= ticket.choices
            self._unpin(ticket, used > 0)
        elif ticket in self._waiting:
            self._waiting.remove(ticket)
        self._next()

    def settle(self, ticket: Ticket, prompt_tokens: int) -> None:
        """Correct the upper bound of a prompt to its true length.

        What that frees goes to the request's own completion first, then to those who wait.
        """
        if ticket not in self._holders or self._limits is None:
            return
        before = ticket.reserved
        ticket.prompt_tokens = prompt_tokens
        if ticket.wanted is not None:
            room = max(0, self._limits.context - prompt_tokens)
            ticket.granted = ticket.choices * min(ticket.wanted, room)
        self._count(ticket, ticket.reserved - before)
        self._next()

    def extend(self, ticket: Ticket, tokens: int) -> int:
        """Grant more tokens to a running request, whoever waits: it will end, they will start.

        Returns:
            How many; 0 when the pool is full.
        """
        if ticket not in self._holders or self._limits is None:
            return 0
        granted = min(tokens, self._limits.pool_tokens - self._reserved)
        if granted <= 0:
            return 0
        ticket.granted += granted
        self._count(ticket, granted)
        return granted

    def believe(self) -> None:
        """Note that the process lives, though a connection to it broke."""
        self._broken.clear()
        self._next()

    @property
    def paused(self) -> bool:
        """Whether nobody is let in for now."""
        return self._paused

    def pause(self, paused: bool) -> None:
        """Let nobody in until told otherwise; who is in may stay."""
        self._paused = paused
        self._next()

    def open(self, limits: Limits) -> None:
        """Let those in who wait: the process is ready."""
        self._limits = limits
        self._next()

    def close(self, reason: Exception | None = None) -> None:
        """Let nobody in any more: the process is gone or leaves. Who is in may stay.

        Args:
            reason: what they are told; EngineGone when left out.
        """
        self._closed = reason or EngineGone()
        for ticket in self._waiting.clear():
            if ticket.turn is not None and not ticket.turn.done():
                ticket.turn.set_exception(self._closed)

    def _admit(self, ticket: Ticket) -> bool:
        limits = self._limits
        if limits is None or self._closed is not None or self._paused:
            return False
        if self._broken:
            return False  # it may be dead: the next one would meet the same end
        # An engine whose context is larger than its pool could never admit a request of that size.
        context = min(limits.context, limits.pool_tokens)
        prompt = min(ticket.prompt_tokens, context)
        free = limits.pool_tokens - self._reserved
        granted = _grant(ticket, context, limits, free - prompt)
        _check(ticket, prompt + granted, limits)
        if prompt + granted > free or self._slots + ticket.choices > limits.slots:
            return False
        if not self._let_alone(ticket) or not self._pin(ticket, limits):
            return False
        ticket.prompt_tokens, ticket.granted = prompt, granted
        self._holders.add(ticket)
        self._reserved += ticket.reserved
        self._waiting.gave(ticket.caller, ticket.reserved)
        self._slots += ticket.choices
        return True

    def _let_alone(self, ticket: Ticket) -> bool:
        """Whether a suspect is alone, and nobody beside one; raises what `vet` does."""
        engine = self.engine.adapter.name if self.engine is not None else ""
        alone = ticket.vet is not None and ticket.vet(engine)
        if (alone and self._holders) or any(each.alone for each in self._holders):
            return False
        if alone:
            ticket.alone = True
            asyncio.get_running_loop().call_later(PROBATION, self._trust, ticket)
        return True

    def _pin(self, ticket: Ticket, limits: Limits) -> bool:
        """Give a ticket a slot of its own where callers are kept apart by slots.

        Several choices are spread by the engine over slots that it takes for free, also over one
        that somebody is about to ask for: so nobody may be beside them.
        """
        pins = self.engine is not None and self.engine.adapter.pins_slots
        if not ticket.trail or not pins:
            return True
        several = ticket.choices > 1
        if any(several or each.choices > 1 for each in self._holders if each.slot is not None):
            return False
        self._pinned = self._pinned or Slots(limits.slots)
        ticket.slot, ticket.foreign = self._pinned.take(ticket.trail)
        return True

    def _unpin(self, ticket: Ticket, used: bool) -> None:
        if ticket.slot is None or self._pinned is None:
            return
        self._pinned.give_back(ticket.slot, used)
        ticket.slot = None
        if ticket.choices > 1:
            self._pinned.forget()

    def _trust(self, ticket: Ticket) -> None:
        """Let others in beside one that has crashed nothing for a while."""
        ticket.alone = False
        self._next()

    def _count(self, ticket: Ticket, tokens: int) -> None:
        self._reserved += tokens
        self._waiting.correct(ticket.caller, tokens)

    def _next(self) -> None:
        while self._waiting:
            ticket = self._waiting.first()
            turn = ticket.turn
            if turn is None or turn.done():
                self._waiting.remove(ticket)
                continue
            try:
                if not self._admit(ticket):
                    return
                turn.set_result(None)
            except InvalidRequest as error:
                turn.set_exception(error)
            self._waiting.remove(ticket)


def _check(ticket: Ticket, tokens: int, limits: Limits) -> None:
    if ticket.choices > limits.slots:
        raise InvalidRequest(
            f"'n' is {ticket.choices}, and this model's engine holds {limits.slots} answers at "
            "once. Lower n, or have the owner of the service raise MAX_CONCURRENT_REQUESTS.",
            param="n",
        )
    if tokens > limits.pool_tokens:
        raise InvalidRequest(
            f"The prompt and 'n' ({ticket.choices}) answers may take {tokens} tokens, and this "
            f"model's engine holds {limits.pool_tokens}. Lower n or max_tokens.",
            param="n",
        )


def _grant(ticket: Ticket, context: int, limits: Limits, free: int) -> int:
    """Size the first grant: all that was asked for, or a share that leaves room for others.

    Args:
        ticket: the request.
        context: tokens of the prompt and one answer.
        limits: what the engine can hold.
        free: tokens left in the pool behind the prompt.
    """
    prompt, choices = min(ticket.prompt_tokens, context), ticket.choices
    if ticket.wanted is not None:
        # A prompt that is shorter than its bound leaves each answer more room. So several may take
        # most when the prompt is just short enough not to limit them.
        worst = min(prompt, max(0, context - ticket.wanted))
        return worst + choices * min(ticket.wanted, context - worst) - prompt
    share = max(MIN_SHARE, limits.pool_tokens // limits.slots // 2)
    room = min(choices * (context - prompt), limits.pool_tokens - prompt)
    return min(room, max(choices * share, free // 4))
