"""The control socket: one connection per request, lease or claim; see `messages`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from vllm_obtain import messages
from vllm_obtain.errors import InternalError, ServiceError
from vllm_obtain.hardware import process_memory, sample
from vllm_obtain.log import get_logger
from vllm_obtain.metrics import Gauges, Numbers
from vllm_obtain.supervisor.answers import Answers
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.owners import Owners
from vllm_obtain.supervisor.pool import Lease, Pool
from vllm_obtain.supervisor.states import State
from vllm_obtain.supervisor.wire import BrokenFrame, Frames, frame

log = get_logger("vllm_obtain.supervisor")

_decode = msgspec.msgpack.Decoder(messages.Request).decode


class Desk:
    """What connections work on; one per supervisor."""

    def __init__(
        self, pool: Pool, answers: Answers, owners: Owners, numbers: Numbers, version: str
    ) -> None:
        self.pool = pool
        self.answers = answers
        self.owners = owners
        self.numbers = numbers
        self.version = version
        self.stop = asyncio.Event()
        self._began = time.monotonic()

    def status(self) -> messages.StatusReply:
        """Say what is going on."""
        return messages.StatusReply(
            pid=os.getpid(),
            uptime=time.monotonic() - self._began,
            engines=[describe(engine) for engine in self.pool.engines],
            system=sample(),
            in_flight=self.pool.in_flight,
            cache=self.answers.size,
        )

    def metrics(self) -> messages.MetricsReply:
        """Write all numbers."""
        now = self.status()
        gauges = Gauges(now.engines, now.system, now.uptime, now.in_flight, now.cache)
        return messages.MetricsReply(self.numbers.text(gauges))


class Connection(asyncio.Protocol):
    """One client of the control socket."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._lease: Lease | None = None
        self._leading: bytes | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio's own promise
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer what came in."""
        try:
            for body in self._frames.feed(data):
                self._handle(_decode(body))
        except (BrokenFrame, msgspec.MsgspecError) as error:
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

    def _handle(self, message: messages.Request) -> None:
        _HANDLERS[type(message)](self, message)

    def _join(self, message: messages.Join) -> None:
        self._desk.owners.add(message.owner_pid, message.owner_start)
        self._send(messages.Welcome(self._desk.version, os.getpid()))

    def _acquire(self, message: messages.Acquire) -> None:
        try:
            lease = self._desk.pool.try_acquire(message)
        except ServiceError as error:
            self._send(messages.Refused.of(error))
            return
        if lease is None:
            self._later(self._wait_for_lease(message))
        else:
            self._grant(lease)

    async def _wait_for_lease(self, message: messages.Acquire) -> None:
        self._grant(await self._desk.pool.acquire(message))

    def _grant(self, lease: Lease) -> None:
        self._lease = lease
        self._send(lease.granted())

    def _settle(self, message: messages.Settle) -> None:
        if self._lease is not None:
            self._lease.settle(message.prompt_tokens)

    def _extend(self, message: messages.Extend) -> None:
        granted = self._lease.extend(message.tokens) if self._lease is not None else 0
        self._send(messages.Extended(granted))

    def _release(self, message: messages.Release) -> None:
        if self._lease is not None:
            self._lease.release(message)
            self._lease = None

    def _load(self, message: messages.Load) -> None:
        async def load() -> None:
            pool = self._desk.pool
            if message.wait:
                engine = await pool.ensure_ready(message.model)
                self._send(messages.Done(engine.adapter.name, engine.state))
                return
            pool.find(message.model)
            name, state = pool.engine_name(message.model), pool.state(message.model)
            if state is not State.READY:
                pool.begin(message.model)
                state = State.STARTING
            self._send(messages.Done(name, state))

        self._later(load())

    def _unload(self, message: messages.Unload) -> None:
        async def unload() -> None:
            name = self._desk.pool.engine_name(message.model)
            state = await self._desk.pool.unload(message.model)
            self._send(messages.Done(name, state))

        self._later(unload())

    def _status(self, _: messages.Status) -> None:
        self._send(self._desk.status())

    def _metrics(self, _: messages.Metrics) -> None:
        self._send(self._desk.metrics())

    def _report(self, message: messages.Report) -> None:
        self._desk.numbers.served(message.served)

    def _recall(self, message: messages.Recall) -> None:
        try:
            engine = self._desk.pool.engine_name(message.model)
        except ServiceError as error:
            self._send(messages.Refused.of(error))
            return
        key = engine.encode() + b"\0" + message.key
        at_once, answer = self._desk.answers.try_recall(key)
        if at_once:
            self._tell(key, answer)
        else:
            self._later(self._follow(key))

    async def _follow(self, key: bytes) -> None:
        self._tell(key, await self._desk.answers.follow(key))

    def _tell(self, key: bytes, answer: bytes | None) -> None:
        if answer is not None:
            self._send(messages.Remembered(answer))
        else:
            self._leading = key
            self._send(messages.Lead())

    def _remember(self, message: messages.Remember) -> None:
        if self._leading is not None:
            self._desk.answers.remember(self._leading, message.answer)
            self._leading = None

    def _stop(self, _: messages.Stop) -> None:
        self._desk.stop.set()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        async def answered() -> None:
            try:
                await work
            except ServiceError as error:
                self._send(messages.Refused.of(error))
            except Exception:
                log.exception("a control request failed")
                self._send(messages.Refused.of(InternalError("The supervisor failed.")))

        self._task = asyncio.get_running_loop().create_task(answered())

    def _send(self, message: messages.Reply) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(message))

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


_HANDLERS: dict[type, Callable[[Connection, Any], None]] = {
    messages.Join: Connection._join,
    messages.Acquire: Connection._acquire,
    messages.Settle: Connection._settle,
    messages.Extend: Connection._extend,
    messages.Release: Connection._release,
    messages.Load: Connection._load,
    messages.Unload: Connection._unload,
    messages.Status: Connection._status,
    messages.Metrics: Connection._metrics,
    messages.Report: Connection._report,
    messages.Recall: Connection._recall,
    messages.Remember: Connection._remember,
    messages.Stop: Connection._stop,
}


def describe(engine: Engine) -> messages.EngineStatus:
    """Describe an engine for the status page."""
    limits = engine.launched.limits if engine.launched else None
    admission = engine.admission
    return messages.EngineStatus(
        engine=engine.adapter.name,
        model=engine.model.name,
        state=engine.state.value,
        pid=engine.pid,
        memory_bytes=process_memory(engine.pid) if engine.pid else None,
        in_flight=admission.in_flight if admission else 0,
        queue=admission.queue if admission else 0,
        restarts=engine.restarts,
        last_error=engine.last_error,
        slots=limits.slots if limits else None,
        context=limits.context if limits else None,
        tokens_reserved=admission.reserved if admission else 0,
        tokens_pool=limits.pool_tokens if limits else None,
        load_seconds=engine.load_seconds,
        idle_seconds=None if engine.users else time.monotonic() - engine.last_used,
    )
