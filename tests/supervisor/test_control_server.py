"""The control socket: its connections, and what becomes of a client that misbehaves."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import msgspec
import pytest

from tests.fake_engine import write_model
from tests.supervisor.control_peer import Peer, run_control_server
from tests.supervisor.helpers import acquire_message, descriptors, in_loop, turn
from tests.waiting import wait_until
from vllm_obtain.control.framing import MAX_FRAME, frame
from vllm_obtain.control.messages import (
    AcquireLease,
    CacheLookup,
    ExtendLease,
    LeaseExtended,
    LeaseGranted,
    LoadModel,
    OwnerRegistered,
    RegisterOwner,
    StopSupervisor,
)
from vllm_obtain.control.owners import start_time


@in_loop
async def test_joining(models: Path, runtime: Path) -> None:
    async with run_control_server(models, runtime) as it:
        join = RegisterOwner("v1", os.getpid(), start_time(os.getpid()) or 0)
        assert await (await it.peer()).ask(join) == OwnerRegistered("v1", os.getpid())
        assert it.desk.owners.alive()


@in_loop
async def test_messages_about_models_wait_for_the_first_scan(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with run_control_server(models, runtime) as it:
        it.desk.has_scanned.clear()
        early, leaver = await it.peer(), await it.peer()
        waiting = asyncio.create_task(early.ask(acquire_message("a")))
        leaver.send(acquire_message("a"))
        await turn()
        leaver.close()
        register = RegisterOwner("v1", os.getpid(), start_time(os.getpid()) or 0)
        assert isinstance(await (await it.peer()).ask(register), OwnerRegistered)
        assert not waiting.done() and it.desk.leases.in_flight == 0
        it.desk.has_scanned.set()
        assert isinstance(await waiting, LeaseGranted)
        assert it.desk.leases.in_flight == 1, "who has left is not served"


@in_loop
async def test_a_worker_that_dies_blocks_nobody(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=1)
    write_model(models, "b")
    async with run_control_server(models, runtime) as it:
        holder, waiter, leaver, other = [await it.peer() for _ in range(4)]
        await holder.ask(acquire_message("a"))
        leaver.send(acquire_message("a"))
        waiter.send(acquire_message("a"))
        await wait_until(lambda: it.desk.leases.in_flight == 3)
        other.send(acquire_message("b"))
        leaver.close()
        holder.close()
        assert isinstance(await waiter.receive(), LeaseGranted)
        waiter.close()
        assert isinstance(await other.receive(), LeaseGranted)
        await wait_until(lambda: it.desk.leases.in_flight == 1)


@in_loop
async def test_stopping(models: Path, runtime: Path) -> None:
    async with run_control_server(models, runtime) as it:
        (await it.peer()).send(StopSupervisor())
        await it.desk.stop.wait()


def too_large() -> bytes:
    return struct.pack(">I", MAX_FRAME + 1)


def add_frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@pytest.mark.parametrize(
    "nonsense",
    [
        too_large(),
        b"GET / HTTP/1.1\r\n\r\n",
        add_frame(b""),
        add_frame(b"\xff"),
        add_frame(msgspec.msgpack.encode({"kind": "Dance"})),
        add_frame(msgspec.msgpack.encode({"kind": "Load", "model": 5, "wait": True})),
        add_frame(b"\x81\xa4kind\xa2\xff\xfe"),
        add_frame(b"\x91" * 10_000),
        frame(LoadModel("a", True)) * 2,
        frame(CacheLookup(b"k", AcquireLease("a", 1, 1, 9))) * 2,
        frame(AcquireLease("a", 1, 1, 9)) * 2,
    ],
)
@in_loop
async def test_who_breaks_the_protocol_is_shown_out(
    models: Path, runtime: Path, nonsense: bytes
) -> None:
    write_model(models, "a")
    async with run_control_server(models, runtime) as it:
        good, bad = await it.peer(), await it.peer()
        assert isinstance(await good.ask(acquire_message("a")), LeaseGranted)
        bad.send_bytes(nonsense)
        while await bad.receive() is not None:
            pass
        assert await good.ask(ExtendLease(5)) == LeaseExtended(5)
        await wait_until(lambda: it.desk.leases.in_flight == 1)
        recalled = await (await it.peer()).ask(CacheLookup(b"k", acquire_message("a")))
        assert isinstance(recalled, LeaseGranted), "nobody leads any more"


@in_loop
async def test_a_fault_of_ours_is_an_answer_too(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a fault of ours")

    write_model(models, "a")
    async with run_control_server(models, runtime) as it:
        monkeypatch.setattr(it.desk.pool, "identity", broken)
        monkeypatch.setattr(it.desk.pool, "load", broken)
        peer = await it.peer()
        assert (await peer.ask(CacheLookup(b"k", acquire_message("a")))).code == "internal_error"
        assert await peer.receive() is None
        peer = await it.peer()
        assert (await peer.ask(LoadModel("a", True))).code == "internal_error"
        assert isinstance(await peer.ask(acquire_message("a")), LeaseGranted)
        assert caplog.text.count("control request failed") == 2


@in_loop
async def test_two_hundred_connections_leave_no_descriptor(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=4)
    async with run_control_server(models, runtime) as it:

        async def use() -> None:
            reader, writer = await asyncio.open_unix_connection(str(runtime / "control.sock"))
            assert isinstance(await Peer(reader, writer).ask(acquire_message("a")), LeaseGranted)
            writer.close()

        await use()
        await wait_until(lambda: it.desk.leases.in_flight == 0)
        before = descriptors()
        for _ in range(10):
            await asyncio.gather(*(use() for _ in range(20)))
        await wait_until(lambda: it.desk.leases.in_flight == 0)
        await turn()
        assert descriptors() <= before
