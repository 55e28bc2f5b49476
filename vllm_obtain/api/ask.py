"""One question to an engine that is answered whole: a lease, an HTTP exchange, and its end.

The sibling of `generate.py`, for what is no generation. A request whose engine ends is asked again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from vllm_obtain.api.account import Account
from vllm_obtain.api.cancel import Cancel
from vllm_obtain.api.endurance import Endurance
from vllm_obtain.api.services import Services
from vllm_obtain.api.tally import Tally
from vllm_obtain.catalogue import Model
from vllm_obtain.engines.base import Adapter
from vllm_obtain.engines.client import EngineLost, Exchange
from vllm_obtain.errors import Overloaded, RequestTimeout, ServiceError
from vllm_obtain.messages import Acquire, Granted, Release
from vllm_obtain.supervisor.client import Line, SupervisorLost

T = TypeVar("T")

# Seconds between two tries of a request that waits to be let in again.
LONGEST_PAUSE = 0.5


class Ask(Generic[T]):
    """Asks engines the same kind of question, within one request's time.

    Args:
        made: the services.
        model: what to ask.
        cancel: fires when nobody wants the answer any more.
        read: reads an answer, and says how many tokens the engine read for it.
        account: on which it goes, None for nobody's.
        headers: for the engine, beside those of each request.
    """

    def __init__(
        self,
        made: Services,
        model: Model,
        cancel: Cancel,
        read: Callable[[Adapter, bytes], tuple[T, int]],
        account: Account | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._headers = headers
        # What is known of the answers so far.
        self.tally = Tally()
        self._made = made
        self._model = model
        self._cancel = cancel
        self._read = read
        self._account = account
        self._deadline = time.monotonic() + made.settings.request_timeout
        self._process = 0.0  # when the engine process of the current lease started
        self.context = 0  # tokens of one request, known once an engine answered

    def __call__(
        self,
        tokens: int,
        question: Callable[[Adapter], tuple[str, object]],
        patient: bool = False,
    ) -> T:
        """Ask once.

        Args:
            tokens: a bound of what the engine has to read at once.
            question: the route and the body, made for the engine that will answer.
            patient: whether to wait where a request would be refused since there are too many:
                for those that have had part of their answer already.

        Raises:
            ServiceError: it cannot be done, or broke off.
            ClientGone: `cancel` fired.
        """
        endurance = Endurance(self._deadline)
        while True:
            try:
                return self._when_let_in(tokens, question, patient)
            except (EngineLost, SupervisorLost) as error:
                if self._cancel.gone:
                    raise self._cancel.cause from None
                endurance.outlast(error, self._process, self._model.name)

    def _when_let_in(
        self, tokens: int, question: Callable[[Adapter], tuple[str, object]], patient: bool
    ) -> T:
        while True:
            try:
                return self._attempt(tokens, question)
            except ServiceError as error:
                pause = min(error.retry_after or LONGEST_PAUSE, LONGEST_PAUSE)
                left = self._deadline - time.monotonic()
                if not patient or error.code != Overloaded.code or left <= pause:
                    raise
                time.sleep(pause)

    def _attempt(self, tokens: int, question: Callable[[Adapter], tuple[str, object]]) -> T:
        with self._made.supervisor.lease_line() as line, self._cancel.attached(line):
            granted = self._acquire(line, tokens)
            if self.tally.served is None:
                self.tally.serve()
            with self._leased(line) as came:
                self._process, self.context = granted.loaded_at, granted.context
                adapter = self._made.adapter(granted.engine)
                self.tally.engine = granted.engine
                exchange = Exchange(granted.socket, self._deadline, headers=self._headers)
                with contextlib.closing(exchange), self._cancel.attached(exchange):
                    answer = exchange.whole(*question(adapter))
                read, came.tokens = self._read(adapter, answer)
                self.tally.prompt_tokens += came.tokens
                return read

    def _acquire(self, line: Line, tokens: int) -> Granted:
        left = max(0.0, self._deadline - time.monotonic())
        try:
            # The supervisor keeps the time; the second more is for its answer to arrive.
            caller = self._account.introduce() if self._account else None
            wanted = Acquire(self._model.name, tokens, 0, left, caller=caller)
            granted = line.ask(wanted, Granted, left + 1)
        except TimeoutError:
            raise RequestTimeout("The supervisor did not answer in time.", retry=False) from None
        except OSError as error:
            raise SupervisorLost("The supervisor ended. Try again.", retry_after=1) from error
        if self._account:
            self._account.told(granted)
        return granted

    @contextlib.contextmanager
    def _leased(self, line: Line) -> Iterator[_Came]:
        """Tell the supervisor at the end of a lease what it came to."""
        came, outcome, lost = _Came(), "error", False
        try:
            yield came
            outcome = "stop"
        except EngineLost:
            lost = True
            raise
        finally:
            if self._cancel.gone:
                # We closed the engine's connection: that says nothing about the engine.
                outcome, lost = "cancelled", False
            try:
                line.send(Release(outcome, prompt_tokens=came.tokens, lost=lost))
            except OSError:
                line.close()


class _Came:
    """What a lease came to."""

    tokens = 0
