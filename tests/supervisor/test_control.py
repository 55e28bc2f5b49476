"""The control socket: what each message does, and what becomes of a client that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fake_engine import write_model
from tests.supervisor.helpers import asking, descriptors, in_loop, settings_for, turn, until
from vllm_obtain import messages
from vllm_obtain.messages import (
    Acquire,
    Done,
    Extend,
    Extended,
    Fetch,
    Fetched,
    Forget,
    Granted,
    Join,
    Keep,
    Kept,
    Load,
    Metrics,
    MetricsReply,
    Recall,
    Refused,
    Release,
    Remember,
    Remembered,
    Report,
    Served,
    Settle,
    Status,
    StatusReply,
    Stop,
    Unload,
    Welcome,
)
from vllm_obtain.supervisor import meter
from vllm_obtain.supervisor.control import Connection
from vllm_obtain.supervisor.desk import Desk
from vllm_obtain.supervisor.owners import started
from vllm_obtain.supervisor.service import fresh_catalogue
from vllm_obtain.supervisor.wire import MAX_FRAME, Frames, frame

_decode = msgspec.msgpack.Decoder(messages.Reply).decode


class Peer:
    """A client of the control socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = Frames()

    def send(self, message: messages.Message) -> None:
        self.send_bytes(frame(message))

    def send_bytes(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self) -> Any:
        while True:
            data = await self._reader.read(65536)
            if not data:
                return None
            for body in self._frames.feed(data):
                return _decode(body)

    async def ask(self, message: messages.Message) -> Any:
        self.send(message)
        return await self.receive()

    def close(self) -> None:
        self._writer.close()


class Office:
    """A desk behind a socket."""

    def __init__(self, desk: Desk, path: Path) -> None:
        self.desk = desk
        self._path = path
        self._peers: list[Peer] = []

    async def peer(self) -> Peer:
        made = Peer(*await asyncio.open_unix_connection(str(self._path)))
        self._peers.append(made)
        return made

    def close(self) -> None:
        for peer in self._peers:
            peer.close()


@contextlib.asynccontextmanager
async def office(models: Path, runtime: Path, **env: Any) -> AsyncIterator[Office]:
    settings = settings_for(models, **env)
    desk = Desk(settings, fresh_catalogue(settings), runtime, "v1")
    path = runtime / "control.sock"
    server = await asyncio.get_running_loop().create_unix_server(lambda: Connection(desk), path)
    made = Office(desk, path)
    try:
        yield made
    finally:
        server.close()
        made.close()
        await turn()
        await desk.pool.close()
        desk.meter.close()
        path.unlink(missing_ok=True)


@in_loop
async def test_joining(models: Path, runtime: Path) -> None:
    async with office(models, runtime) as it:
        join = Join("v1", os.getpid(), started(os.getpid()) or 0)
        assert await (await it.peer()).ask(join) == Welcome("v1", os.getpid())
        assert it.desk.owners.alive()


@in_loop
async def test_a_lease_and_what_it_counts(models: Path, runtime: Path) -> None:
    write_model(models, "a", pool_tokens=1000)
    async with office(models, runtime) as it:
        peer = await it.peer()
        granted = await peer.ask(asking("a", max_tokens=None))
        assert isinstance(granted, Granted)
        peer.send(Settle(5))
        assert await peer.ask(Extend(100)) == Extended(100)
        peer.send(Release("stop", 5, 2, 30, 0.5, 2.0))
        again = await peer.ask(asking("a"))
        assert isinstance(again, Granted), "a connection may hold one lease after another"
        assert it.desk.leases.in_flight == 1
        peer.close()
        await until(lambda: it.desk.leases.in_flight == 0)
        assert sample(it, "generation_tokens_total") == 30
        assert sample(it, "inference_requests_total", outcome="stop") == 1
        assert sample(it, "inference_requests_total", outcome="cancelled") == 1


@in_loop
async def test_a_worker_that_dies_blocks_nobody(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=1)
    write_model(models, "b")
    async with office(models, runtime) as it:
        holder, waiter, leaver, other = [await it.peer() for _ in range(4)]
        await holder.ask(asking("a"))
        leaver.send(asking("a"))
        waiter.send(asking("a"))
        await until(lambda: it.desk.leases.in_flight == 3)
        other.send(asking("b"))
        leaver.close()
        holder.close()
        assert isinstance(await waiter.receive(), Granted)
        waiter.close()
        assert isinstance(await other.receive(), Granted)
        await until(lambda: it.desk.leases.in_flight == 1)


@in_loop
async def test_errors_come_back_whole(models: Path, runtime: Path) -> None:
    write_model(models, "a", exit_at_start=1, print_at_start=["no room"])
    async with office(models, runtime, max_concurrent_requests=1) as it:
        peer = await it.peer()
        refused = await peer.ask(asking("a"))
        assert isinstance(refused, Refused)
        assert (refused.status, refused.code, refused.retry) == (503, "model_load_failed", False)
        assert "no room" in refused.message
        assert (await peer.ask(asking("nothing"))).code == "model_not_found"
        assert (await peer.ask(Recall(b"k", asking("nothing")))).code == "model_not_found"
        assert (await peer.ask(Load("nothing", False))).code == "model_not_found"
        assert (await peer.ask(Unload("nothing"))).code == "model_not_found"
        write_model(models, "a")
        assert isinstance(await peer.ask(asking("a")), Granted)
        refused = await (await it.peer()).ask(asking("a"))
        assert (refused.status, refused.code) == (429, "overloaded")


@in_loop
async def test_loading_and_unloading(models: Path, runtime: Path, tmp_path: Path) -> None:
    write_model(models, "a", slow_start=tmp_path / "go")
    async with office(models, runtime) as it:
        peer = await it.peer()
        assert await peer.ask(Load("a", False)) == Done("fake", "starting")
        peer.send(Load("a", True))
        (tmp_path / "go").touch()
        assert await peer.receive() == Done("fake", "ready")
        assert await peer.ask(Load("a", False)) == Done("fake", "ready")
        assert await peer.ask(Unload("a")) == Done("fake", "stopped")
        assert await peer.ask(Unload("a")) == Done("fake", "stopped")


@in_loop
async def test_the_status(models: Path, runtime: Path, tmp_path: Path) -> None:
    write_model(models, "a", slots=1, pool_tokens=900, context=300)
    write_model(models, "b", slow_start=tmp_path / "never")
    async with office(models, runtime, max_concurrent_models=2) as it:
        peer = await it.peer()
        await peer.ask(asking("a"))
        for name in "abb":
            (await it.peer()).send(asking(name))
        await until(lambda: it.desk.leases.in_flight == 4)
        reply = await (await it.peer()).ask(Status())
        assert isinstance(reply, StatusReply)
        assert (reply.pid, reply.in_flight) == (os.getpid(), 4)
        assert reply.system["memory_total_bytes"] > 0
        a, b = reply.engines
        assert (a.state, a.in_flight, a.queue, a.slots) == ("ready", 1, 1, 1)
        assert (a.context, a.tokens_reserved, a.tokens_pool) == (300, 20, 900)
        assert a.memory_bytes and a.load_seconds and a.idle_seconds is None
        assert (b.state, b.in_flight, b.queue) == ("starting", 0, 2)


@in_loop
async def test_the_numbers(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with office(models, runtime) as it:
        peer = await it.peer()
        await peer.ask(asking("a"))
        peer.send(Release("stop", 10, 4, 21, 0.2, 2.0))
        peer.send(Report([Served("/x", "GET", 200, 0.1), Served("/y", "POST", 429, 0.2, "miss")]))
        reply = await peer.ask(Metrics())
        assert isinstance(reply, MetricsReply)
        found = {
            (each.name, *sorted(each.labels.items())): each.value
            for family in text_string_to_metric_families(reply.text)
            for each in family.samples
        }
        serving = (("engine", "fake"), ("model", "a"))
        assert found["vllm_obtain_prompt_tokens_total", *serving] == 10
        assert found["vllm_obtain_prompt_tokens_cached_total", *serving] == 4
        assert found["vllm_obtain_generation_tokens_total", *serving] == 21
        assert found["vllm_obtain_generation_tokens_per_second_sum", *serving] == 10
        assert found["vllm_obtain_engine_in_flight", *serving] == 0
        assert found["vllm_obtain_requests_in_flight",] == 0
        refused = ("method", "POST"), ("route", "/y"), ("status", "429")
        assert found["vllm_obtain_http_requests_total", *refused] == 1
        assert found["vllm_obtain_response_cache_requests_total", ("result", "miss")] == 1


@in_loop
async def test_a_measurement_that_hangs_holds_up_nobody(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    monkeypatch.setattr(meter, "PATIENCE", 0.05)
    monkeypatch.setattr(meter, "_measure", lambda _: free.wait(20) and meter.Reading({"x": 1.0}))
    write_model(models, "a")
    async with office(models, runtime) as it:
        peer, other = await it.peer(), await it.peer()
        peer.send(Status())
        assert isinstance(await other.ask(asking("a")), Granted)
        assert (await peer.receive()).system == {}
        assert (await peer.ask(Status())).system == {}, "only one measurement at a time"
        free.set()
        await until(lambda: it.desk.meter._running is not None and it.desk.meter._running.done())
        assert (await peer.ask(Status())).system == {"x": 1.0}


@in_loop
async def test_answers_are_shared_over_connections(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with office(models, runtime) as it:
        leader, follower, another, dead = [await it.peer() for _ in range(4)]
        question = Recall(b"k", asking("a"))
        assert isinstance(await leader.ask(question), Granted)
        for peer in (dead, follower, another):
            peer.send(question)
            await turn()
        assert it.desk.leases.in_flight == 1, "who waits for an answer takes no room"
        dead.close()
        await turn()
        leader.close()
        assert isinstance(await follower.receive(), Granted), "the next one that lives leads"
        follower.send(Release("stop"))
        follower.send(Remember(b"answer"))
        assert await another.receive() == Remembered(b"answer")
        assert await another.ask(question) == Remembered(b"answer")
        assert it.desk.leases.in_flight == 0, "an answer needs no engine"
        assert isinstance(await another.ask(Recall(b"other", asking("a"))), Granted)
        assert it.desk.answers.size == {"entries": 1, "bytes": 6}


@in_loop
async def test_responses_are_kept_for_all_connections(models: Path, runtime: Path) -> None:
    async with office(models, runtime, RESPONSES_STORE_MB="1") as it:
        first = await it.peer()
        assert await first.ask(Keep(b"me", "a", None, ["i"], b"1")) == Kept(True)
        assert await first.ask(Keep(b"me", "b", "a", [], b"2")) == Kept(True)
        assert await first.ask(Keep(b"me", "c", None, [], bytes(2**20))) == Kept(False)
        first.close()
        peer = await it.peer()
        assert await peer.ask(Fetch(b"me", "b", whole=True)) == Fetched([b"1", b"2"])
        assert await peer.ask(Fetch(b"me", "i", item=True)) == Fetched([b"1"])
        assert await peer.ask(Fetch(b"you", "b")) == Fetched([], "b")
        assert (await peer.ask(Status())).responses["entries"] == 2
        assert await peer.ask(Forget(b"me", "a")) == Kept(True)
        assert await peer.ask(Forget(b"me", "a")) == Kept(False)
        assert await peer.ask(Fetch(b"me", "b", whole=True)) == Fetched([], "a")


@in_loop
async def test_stopping(models: Path, runtime: Path) -> None:
    async with office(models, runtime) as it:
        (await it.peer()).send(Stop())
        await it.desk.stop.wait()


def too_large() -> bytes:
    return struct.pack(">I", MAX_FRAME + 1)


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@pytest.mark.parametrize(
    "nonsense",
    [
        too_large(),
        b"GET / HTTP/1.1\r\n\r\n",
        framed(b""),
        framed(b"\xff"),
        framed(msgspec.msgpack.encode({"kind": "Dance"})),
        framed(msgspec.msgpack.encode({"kind": "Load", "model": 5, "wait": True})),
        framed(b"\x81\xa4kind\xa2\xff\xfe"),
        framed(b"\x91" * 10_000),
        frame(Load("a", True)) * 2,
        frame(Recall(b"k", Acquire("a", 1, 1, 9))) * 2,
        frame(Acquire("a", 1, 1, 9)) * 2,
    ],
)
@in_loop
async def test_who_breaks_the_protocol_is_shown_out(
    models: Path, runtime: Path, nonsense: bytes
) -> None:
    write_model(models, "a")
    async with office(models, runtime) as it:
        good, bad = await it.peer(), await it.peer()
        assert isinstance(await good.ask(asking("a")), Granted)
        bad.send_bytes(nonsense)
        while await bad.receive() is not None:
            pass
        assert await good.ask(Extend(5)) == Extended(5)
        await until(lambda: it.desk.leases.in_flight == 1)
        recalled = await (await it.peer()).ask(Recall(b"k", asking("a")))
        assert isinstance(recalled, Granted), "nobody leads any more"


@in_loop
async def test_a_fault_of_ours_is_an_answer_too(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a fault of ours")

    write_model(models, "a")
    async with office(models, runtime) as it:
        monkeypatch.setattr(it.desk.pool, "identity", broken)
        monkeypatch.setattr(it.desk.pool, "load", broken)
        peer = await it.peer()
        assert (await peer.ask(Recall(b"k", asking("a")))).code == "internal_error"
        assert await peer.receive() is None
        peer = await it.peer()
        assert (await peer.ask(Load("a", True))).code == "internal_error"
        assert isinstance(await peer.ask(asking("a")), Granted)
        assert caplog.text.count("a control request failed") == 2


@in_loop
async def test_two_hundred_connections_leave_no_descriptor(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=4)
    async with office(models, runtime) as it:

        async def use() -> None:
            reader, writer = await asyncio.open_unix_connection(str(runtime / "control.sock"))
            assert isinstance(await Peer(reader, writer).ask(asking("a")), Granted)
            writer.close()

        await use()
        await until(lambda: it.desk.leases.in_flight == 0)
        before = descriptors()
        for _ in range(10):
            await asyncio.gather(*(use() for _ in range(20)))
        await until(lambda: it.desk.leases.in_flight == 0)
        await turn()
        assert descriptors() <= before


def sample(it: Office, name: str, **labels: str) -> float | None:
    return it.desk.numbers.registry.get_sample_value(
        f"vllm_obtain_{name}", {"model": "a", "engine": "fake", **labels}
    )
