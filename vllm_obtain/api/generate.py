"""One generation: a lease, the engine's answer, and what it came to.

The only place that talks to engines. A request whose first token has not come survives the end
of its engine: it takes a new lease and is asked again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from vllm_obtain.api.account import Account
from vllm_obtain.api.cancel import Cancel
from vllm_obtain.api.draft import Drafting
from vllm_obtain.api.endurance import Endurance
from vllm_obtain.api.leniency import Leniency
from vllm_obtain.api.stops import Stops
from vllm_obtain.api.tally import Tally
from vllm_obtain.catalogue import Model
from vllm_obtain.engines.base import Adapter
from vllm_obtain.engines.client import EngineLost
from vllm_obtain.engines.sight import check_engine
from vllm_obtain.errors import (
    ClientGone,
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    RequestTimeout,
    UnsupportedParameter,
)
from vllm_obtain.log import get_logger
from vllm_obtain.messages import (
    Acquire,
    Extend,
    Extended,
    Granted,
    Recall,
    Remember,
    Remembered,
    Settle,
)
from vllm_obtain.protocol.events import Delta, Event, Progress, Usage, copied
from vllm_obtain.protocol.task import Task
from vllm_obtain.supervisor.client import Line, Supervisor, SupervisorLost

log = get_logger("vllm_obtain.generate")

# What a request without max_tokens asks for at a time, for each of its choices.
EXTENSION_TOKENS = 512
# Tokens of a choice without an event of their own (half a character, a held back stop string).
UNSEEN_TOKENS = 8
# A reservation that is too large by less than this is not worth a message to the supervisor.
SETTLE_TOKENS = 512


class Keeper(Protocol):
    """Who wants an answer kept for identical requests.

    Args:
        key: a fingerprint of the request.
    """

    key: bytes

    def answer(self) -> bytes:
        """All events that were yielded."""

    def recall(self, answer: bytes) -> list[list[Event]]:
        """Read an answer that was kept."""


class Generation:
    """One request on its way through the engine; iterate over it once.

    Args:
        supervisor: who gives leases.
        adapters: finds the adapter of an engine by its name.
        model: what to use.
        task: what to do.
        asked: a fingerprint of it.
        cancel: fires when nobody wants the answer any more.
        endurance: how long everything may take, and how many ends of engines.
        pulse: seconds of silence before the first token after which an empty list is yielded;
            None for never.
        leniency: what becomes of parameters that the engine cannot honour.
        keeper: for an answer that may have been given before.
        account: on which it goes.
        headers: for the engine, beside those of each request.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        adapters: Callable[[str], Adapter],
        model: Model,
        task: Task,
        asked: bytes,
        cancel: Cancel,
        endurance: Endurance,
        pulse: float | None = None,
        leniency: Leniency | None = None,
        keeper: Keeper | None = None,
        account: Account | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._drafting = Drafting(adapters, endurance.deadline, pulse, headers)
        self._supervisor = supervisor
        self._adapters = adapters
        self._model = model
        self._task = task
        self._request = request = task.request
        self._fingerprint = asked
        self._cancel = cancel
        self._endurance = endurance
        self._deadline = endurance.deadline
        self._tokens_left = 0
        self._reserved = 0  # tokens for the prompt, before its true length is known
        self._pulse = pulse
        self._account = account
        self._leniency = leniency or Leniency(strict=True)
        self._keeper = keeper
        self._spoke = 0.0  # when something was yielded last, in monotonic seconds
        self._process = 0.0  # when the engine process of the current lease started
        self._draws = request.draws
        self._copies = request.choices // self._draws
        self.tally = Tally(self._draws)

    def __iter__(self) -> Iterator[list[Event]]:
        """Yield events as they come.

        An empty list says that the engine has begun to read the prompt, or that the request still
        waits.

        Raises:
            ServiceError: it cannot be done, or broke off.
            ClientGone: `cancel` fired.
        """
        while True:
            try:
                yield from self._attempt()
                return
            except ContextLengthExceeded as error:
                error.param = "messages" if self._task.is_chat else "prompt"
                raise
            except InvalidRequest as error:
                if error.code == "invalid_image":
                    error.param = self._task.only_image or "messages"
                raise
            except (EngineLost, SupervisorLost) as error:
                if self._cancel.gone:
                    raise self._cancel.cause from None
                error.midway = self.tally.started
                if error.midway:
                    raise
                self._endurance.outlast(error, self._process, self._model.name)

    def _attempt(self) -> Iterator[list[Event]]:
        with (
            contextlib.closing(self._drafting),
            self._supervisor.lease_line() as line,
            self._cancel.attached(line),
        ):
            granted = yield from self._acquire(line)
            if isinstance(granted, Remembered):
                yield from self._recalled(granted)
                return
            with self._leased(line):
                yield from self._generate(line, granted)
            self._remember(line)

    def _generate(self, line: Line, granted: Granted) -> Iterator[list[Event]]:
        self.tally.serve()
        self.tally.engine = granted.engine
        self._tokens_left = granted.tokens
        self._process = granted.loaded_at
        adapter = self._adapters(granted.engine)
        draft = self._drafting.guessed(granted)
        if draft is None:
            self._check(adapter)
            draft = self._drafting.write(granted, self._task)
        if granted.apart is not None:
            adapter.keep_apart(draft.body, granted.apart)
        exchange = draft.exchange
        with contextlib.closing(exchange), self._cancel.attached(exchange):
            stops = self._stops(adapter)
            for events in exchange.events(draft.url, draft.body):
                waited = not self.tally.started
                passed = self._pass(line, stops.read(events) if stops else events)
                if waited and self.tally.started:
                    exchange.settle_in()
                if passed or self._is_silent():
                    self._spoke = time.monotonic()
                    yield passed if self._copies == 1 else copied(passed, self._copies)
                if self.tally.finished:
                    return
                if stops and stops.found and self.tally.ended:
                    # The engine would go on behind the stop text: closing the line ends it.
                    self.tally.deltas += stops.swallowed
                    break
            yield self._rest()

    def _recalled(self, known: Remembered) -> Iterator[list[Event]]:
        assert self._keeper is not None  # noqa: S101 - nobody else is answered so
        yield from self._keeper.recall(known.answer)

    def _remember(self, line: Line) -> None:
        """Have the answer kept; a line that is closed without that tells that there is none."""
        if self._keeper is None:
            return
        if self.tally.cut:
            line.close()
            return
        try:
            line.send(Remember(self._keeper.answer()))
        except OSError:
            # The supervisor is gone, and the answer is here: whoever asked shall have it.
            line.close()

    def _is_silent(self) -> bool:
        """Whether it is time to say that there is no news; the first time always is."""
        if not self._spoke:
            return True
        return self._pulse is not None and time.monotonic() - self._spoke >= self._pulse

    @contextlib.contextmanager
    def _leased(self, line: Line) -> Iterator[None]:
        """Tell the supervisor at the end of a lease what it came to."""
        outcome, lost = "error", False
        try:
            yield
            outcome = self.tally.reason or "error"
        except (ClientGone, GeneratorExit):
            outcome = "cancelled"
            raise
        except EngineLost:
            lost = True
            raise
        finally:
            if self._cancel.gone:
                # We closed the engine's connection: that says nothing about the engine.
                outcome, lost = "cancelled", False
            self._release(line, outcome, lost)

    def _release(self, line: Line, outcome: str, lost: bool) -> None:
        try:
            line.send(self.tally.release(outcome, lost))
        except OSError:
            line.close()

    def _acquire(self, line: Line) -> Generator[list[Event], None, Granted | Remembered]:
        self._reserved = self._task.length
        left = max(0.0, self._deadline - time.monotonic())
        acquire = Acquire(
            model=self._model.name,
            prompt_tokens=self._reserved,
            max_tokens=self._request.token_limit,
            timeout=left,
            choices=self._draws,
            fingerprint=self._fingerprint,
            caller=self._account.introduce() if self._account else None,
            trail=self._task.trail,
        )
        keeper = self._keeper
        try:
            line.send(acquire if keeper is None else Recall(keeper.key, acquire))
            if keeper is None:
                last = self._supervisor.granted.get(self._model.name)
                self._drafting.guess(last, self._task, self._reserved)
            granted = yield from self._granted(line)
        except OSError as error:
            raise _supervisor_lost() from error
        if isinstance(granted, Granted):
            self._supervisor.granted[self._model.name] = granted
            if self._account:
                self._account.told(granted)
        return granted

    def _granted(self, line: Line) -> Generator[list[Event], None, Granted | Remembered]:
        # The supervisor keeps the time; the second more is for its answer to arrive.
        end = self._deadline + 1
        while (left := end - time.monotonic()) > 0:
            try:
                answer = line.hear(left if self._pulse is None else min(left, self._pulse))
            except TimeoutError:
                self._spoke = time.monotonic()
                yield []
                continue
            if not isinstance(answer, Granted | Remembered):
                raise ConnectionError(f"unexpected answer {type(answer).__name__}")
            return answer
        raise RequestTimeout("The supervisor did not answer in time.", retry=False)

    def _stops(self, adapter: Adapter) -> Stops | None:
        texts = self._request.stop_texts
        return Stops(texts, self._draws) if texts and not adapter.keeps_stops else None

    def _check(self, adapter: Adapter) -> None:
        if self._task.images:
            check_engine(adapter, self._model, self._task.images[0].where)
        while True:
            try:
                return adapter.check(self._task)
            except UnsupportedParameter as error:
                self._request = self._leniency.without(self._request, error)
                self._task = replace(self._task, request=self._request)

    def _pass(self, line: Line, events: list[Event]) -> list[Event]:
        """Count events, keep to the lease, and leave out what clients need not see."""
        passed: list[Event] = []
        for event in events:
            if isinstance(event, Progress):
                self._progress(line, event)
                continue
            self.tally.count(event)
            if isinstance(event, Usage):
                continue
            passed.append(event)
            if isinstance(event, Delta) and self._spent(line):
                log.warning("completion cut: the cache is full", model=self._model.name)
                passed += self.tally.cut_off()
                break
        if self.tally.finished:
            # Once and at the end, however often the engine told it.
            passed.append(self.tally.usage())
        return passed

    def _rest(self) -> list[Event]:
        """Make up for the count of tokens that an engine owed at the end of its stream."""
        if not self.tally.ended:
            raise EngineFailed("The engine's answer has no end. Try again.")
        return copied([self.tally.usage()], self._copies)

    def _progress(self, line: Line, progress: Progress) -> None:
        if self.tally.prompt_tokens != progress.total:
            self.tally.prompt_tokens = progress.total
            if not 0 <= self._reserved - progress.total < SETTLE_TOKENS:
                # Without a supervisor the engine ends too, and that is soon seen.
                with contextlib.suppress(OSError):
                    line.send(Settle(progress.total))
        self.tally.cached_tokens = progress.cached

    def _spent(self, line: Line) -> bool:
        """Whether the lease's tokens are used up and no more are to be had."""
        if self._request.token_limit is not None:
            return False
        self._tokens_left -= 1
        unseen = UNSEEN_TOKENS * self._draws
        if self._tokens_left > unseen:
            return False
        try:
            extended = line.ask(Extend(EXTENSION_TOKENS * self._draws), Extended, 10)
        except OSError as error:
            raise _supervisor_lost() from error
        self._tokens_left += extended.tokens
        return self._tokens_left <= unseen


def _supervisor_lost() -> SupervisorLost:
    return SupervisorLost("The supervisor ended. Try again.", retry_after=1)
