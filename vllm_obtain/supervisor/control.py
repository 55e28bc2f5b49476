"""The control socket: one connection per request, lease or claim; see `messages`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from vllm_obtain import messages
from vllm_obtain.errors import InternalError, ServiceError
from vllm_obtain.log import get_logger
from vllm_obtain.supervisor.accounts import Bill
from vllm_obtain.supervisor.desk import Desk
from vllm_obtain.supervisor.lease import Lease
from vllm_obtain.supervisor.states import State
from vllm_obtain.supervisor.wire import BrokenFrame, Frames, frame

log = get_logger("vllm_obtain.supervisor")

_decode = msgspec.msgpack.Decoder(messages.Request).decode


class Connection(asyncio.Protocol):
    """One client of the control socket."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._lease: Lease | None = None
        self._bill: Bill | None = None
        self._leading: bytes | None = None
        self._identity = "", b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio's own promise
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer what came in."""
        try:
            for body in self._frames.feed(data):
                if self._closed:
                    return
                self._handle(_decode(body))
        except (BrokenFrame, ValueError, RecursionError) as error:
            # msgspec's errors are ValueErrors, and so is text that is not UTF-8.
            log.warning("control message refused", reason=str(error))
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Take back what the client held."""
        if self._task is not None:
            self._task.cancel()
        if self._lease is not None:
            self._lease.release(messages.Release("cancelled"))
        if self._leading is not None:
            self._desk.answers.abandon(self._leading)

    @property
    def _busy(self) -> bool:
        """Whether an answer is due."""
        return self._task is not None and not self._task.done()

    @property
    def _closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _handle(self, message: messages.Request) -> None:
        try:
            _HANDLERS[type(message)](self, message)
        except ServiceError as error:
            self._send(messages.Refused.of(error))
        except BrokenFrame:
            raise
        except Exception:
            # Whether an answer was due or not, the two sides no longer agree: nobody shall wait.
            self._failed()
            self._close()

    def _join(self, message: messages.Join) -> None:
        self._desk.owners.add(message.owner_pid, message.owner_start)
        self._send(messages.Welcome(self._desk.version, os.getpid()))

    def _acquire(self, message: messages.Acquire) -> None:
        if self._lease is not None or self._busy:
            raise BrokenFrame("a second Acquire before the end of the first")
        bill = self._desk.accounts.bill(message)
        with _cancelled(bill):
            lease = self._desk.leases.try_acquire(message)
        if lease is None:
            self._later(lambda: self._wait_for_lease(message, bill))
        else:
            self._grant(lease, bill)

    async def _wait_for_lease(self, message: messages.Acquire, bill: Bill | None) -> None:
        with _cancelled(bill):
            lease = await self._desk.leases.acquire(message)
        self._grant(lease, bill)

    def _grant(self, lease: Lease, bill: Bill | None) -> None:
        self._lease, self._bill = lease, bill
        headers = bill.headers if bill is not None else None
        self._send(replace(lease.granted, headers=headers) if headers else lease.granted)

    def _spend(self, message: messages.Spend) -> None:
        self._send(messages.Spent(self._desk.accounts.spend(message)))

    def _settle(self, message: messages.Settle) -> None:
        if self._lease is not None:
            self._lease.settle(message.prompt_tokens)

    def _extend(self, message: messages.Extend) -> None:
        granted = self._lease.extend(message.tokens) if self._lease is not None else 0
        self._send(messages.Extended(granted))

    def _release(self, message: messages.Release) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release(message)
        bill, self._bill = self._bill, None
        if bill is not None:
            bill.settle(message)

    def _load(self, message: messages.Load) -> None:
        async def load() -> None:
            pool = self._desk.pool
            if message.engine is not None:
                await pool.look_for(message.engine)
            if message.wait:
                engine = await pool.load(message.model, message.engine)
                self._send(messages.Done(engine.adapter.name, State.READY))
            else:
                self._send(pool.begun(message.model, message.engine))

        self._later(load)

    def _unload(self, message: messages.Unload) -> None:
        async def unload() -> None:
            name = self._desk.pool.engine_name(message.model)
            state = await self._desk.pool.unload(message.model)
            self._send(messages.Done(name, state))

        self._later(unload)

    def _status(self, _: messages.Status) -> None:
        async def status() -> None:
            self._send(await self._desk.status())

        self._later(status)

    def _metrics(self, _: messages.Metrics) -> None:
        async def metrics() -> None:
            self._send(await self._desk.metrics())

        self._later(metrics)

    def _report(self, message: messages.Report) -> None:
        self._desk.numbers.served(message.served, message.spans_lost)
        self._desk.accounts.served(message.served)

    def _usage(self, _: messages.Usage) -> None:
        self._send(messages.UsageReply(self._desk.accounts.usage))

    def _recall(self, message: messages.Recall) -> None:
        if self._leading is not None or self._busy:
            raise BrokenFrame("a second Recall before the end of the first")
        model = message.acquire.model
        identity = self._desk.pool.identity(model)
        key = identity + message.key
        self._identity = model, identity
        at_once, answer = self._desk.answers.try_recall(key)
        if not at_once:
            self._later(lambda: self._follow(key, message.acquire))
        elif self._leads(key, answer):
            self._acquire(message.acquire)

    async def _follow(self, key: bytes, acquire: messages.Acquire) -> None:
        if self._leads(key, await self._desk.answers.follow(key)):
            await self._wait_for_lease(acquire, self._desk.accounts.bill(acquire))

    def _leads(self, key: bytes, answer: bytes | None) -> bool:
        """Tell an answer, or else note who has to find it."""
        if answer is None:
            self._leading = key
        else:
            self._send(messages.Remembered(answer))
        return answer is None

    def _remember(self, message: messages.Remember) -> None:
        key, self._leading = self._leading, None
        if key is None:
            return
        model, identity = self._identity
        if self._desk.pool.identity(model) == identity:
            self._desk.answers.remember(key, message.answer)
        else:
            # The model has another engine or other files by now: whose answer this is, who knows.
            self._desk.answers.abandon(key)

    def _keep(self, message: messages.Keep) -> None:
        self._send(messages.Kept(self._desk.responses.keep(message)))

    def _fetch(self, message: messages.Fetch) -> None:
        self._send(self._desk.responses.fetch(message))

    def _forget(self, message: messages.Forget) -> None:
        self._send(messages.Kept(self._desk.responses.forget(message)))

    def _suspects(self, _: messages.Suspects) -> None:
        self._send(messages.QuarantineReply(self._desk.pool.quarantine.refused))

    def _pardon(self, _: messages.Pardon) -> None:
        self._send(messages.Pardoned(self._desk.pool.quarantine.clear()))

    def _pull(self, message: messages.Pull) -> None:
        self._send(self._desk.pulls.begin(message))

    def _pull_news(self, message: messages.PullNews) -> None:
        async def news() -> None:
            pulls = self._desk.pulls
            self._send(await pulls.news(message.id, message.version, message.patience))

        self._later(news)

    def _pull_cancel(self, message: messages.PullCancel) -> None:
        async def cancel() -> None:
            self._send(await self._desk.pulls.cancel(message.id))

        self._later(cancel)

    def _pulls(self, _: messages.Pulls) -> None:
        self._send(messages.PullsReply(self._desk.pulls.all))

    def _look(self, message: messages.Look) -> None:
        async def look() -> None:
            self._send(await self._desk.looks.look(message))

        self._later(look)

    def _remove(self, message: messages.Remove) -> None:
        async def remove() -> None:
            self._send(await self._desk.removal.remove(message.model))

        self._later(remove)

    def _stop(self, _: messages.Stop) -> None:
        self._desk.stop.set()

    def _later(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def answered() -> None:
            try:
                await work()
            except ServiceError as error:
                self._send(messages.Refused.of(error))
            except Exception:
                self._failed()

        if self._busy:
            raise BrokenFrame("a second question before the answer to the first")
        self._task = asyncio.get_running_loop().create_task(answered())

    def _failed(self) -> None:
        log.exception("a control request failed")
        problem = InternalError("The supervisor failed; errors.log has the details.")
        self._send(messages.Refused.of(problem))

    def _send(self, message: messages.Reply) -> None:
        if self._transport is not None and not self._closed:
            self._transport.write(frame(message))

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@contextlib.contextmanager
def _cancelled(bill: Bill | None) -> Iterator[None]:
    """Give back what was taken for a lease that did not come about."""
    try:
        yield
    except BaseException:
        if bill is not None:
            bill.cancel()
        raise


_HANDLERS: dict[type, Callable[[Connection, Any], None]] = {
    messages.Join: Connection._join,
    messages.Acquire: Connection._acquire,
    messages.Spend: Connection._spend,
    messages.Settle: Connection._settle,
    messages.Extend: Connection._extend,
    messages.Release: Connection._release,
    messages.Load: Connection._load,
    messages.Unload: Connection._unload,
    messages.Status: Connection._status,
    messages.Metrics: Connection._metrics,
    messages.Report: Connection._report,
    messages.Usage: Connection._usage,
    messages.Recall: Connection._recall,
    messages.Remember: Connection._remember,
    messages.Keep: Connection._keep,
    messages.Fetch: Connection._fetch,
    messages.Forget: Connection._forget,
    messages.Suspects: Connection._suspects,
    messages.Pardon: Connection._pardon,
    messages.Pull: Connection._pull,
    messages.PullNews: Connection._pull_news,
    messages.PullCancel: Connection._pull_cancel,
    messages.Pulls: Connection._pulls,
    messages.Look: Connection._look,
    messages.Remove: Connection._remove,
    messages.Stop: Connection._stop,
}
