"""What each message on the control socket does."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fake_engine import write_model
from tests.supervisor.control_peer import ControlServer, run_control_server
from tests.supervisor.helpers import acquire_message, in_loop, turn
from tests.waiting import wait_until
from vllm_obtain.control.messages import (
    AdjustReservation,
    CacheHit,
    CacheLookup,
    CacheStore,
    DeleteResponse,
    ErrorReply,
    ExtendLease,
    LeaseExtended,
    LeaseGranted,
    LoadModel,
    LoadResponse,
    LoadStatus,
    Metrics,
    MetricsReply,
    ReleaseLease,
    ReportRequests,
    RequestRecord,
    ResponseLoaded,
    ResponseStored,
    Status,
    StatusReply,
    StoreResponse,
    UnloadModel,
)
from vllm_obtain.supervisor.memory import sampler


@in_loop
async def test_a_lease_and_what_it_counts(models: Path, runtime: Path) -> None:
    write_model(models, "a", pool_tokens=1000)
    async with run_control_server(models, runtime) as it:
        peer = await it.peer()
        granted = await peer.ask(acquire_message("a", max_tokens=None))
        assert isinstance(granted, LeaseGranted)
        peer.send(AdjustReservation(5))
        assert await peer.ask(ExtendLease(100)) == LeaseExtended(100)
        peer.send(ReleaseLease("stop", 5, 2, 30, 0.5, 2.0))
        again = await peer.ask(acquire_message("a"))
        assert isinstance(again, LeaseGranted), "a connection may hold one lease after another"
        assert it.desk.leases.in_flight == 1
        peer.close()
        await wait_until(lambda: it.desk.leases.in_flight == 0)
        assert sample(it, "generation_tokens_total") == 30
        assert sample(it, "inference_requests_total", outcome="stop") == 1
        assert sample(it, "inference_requests_total", outcome="cancelled") == 1


@in_loop
async def test_errors_come_back_whole(models: Path, runtime: Path) -> None:
    write_model(models, "a", exit_at_start=1, print_at_start=["no room"])
    async with run_control_server(models, runtime, max_concurrent_requests=1) as it:
        peer = await it.peer()
        reply = await peer.ask(acquire_message("a"))
        assert isinstance(reply, ErrorReply)
        assert (reply.status, reply.code, reply.retry) == (503, "model_load_failed", False)
        assert "no room" in reply.message
        assert (await peer.ask(acquire_message("nothing"))).code == "model_not_found"
        assert (
            await peer.ask(CacheLookup(b"k", acquire_message("nothing")))
        ).code == "model_not_found"
        assert (await peer.ask(LoadModel("nothing", False))).code == "model_not_found"
        assert (await peer.ask(UnloadModel("nothing"))).code == "model_not_found"
        write_model(models, "a")
        assert isinstance(await peer.ask(acquire_message("a")), LeaseGranted)
        reply = await (await it.peer()).ask(acquire_message("a"))
        assert (reply.status, reply.code) == (429, "overloaded")


@in_loop
async def test_loading_and_unloading(models: Path, runtime: Path, tmp_path: Path) -> None:
    write_model(models, "a", slow_start=tmp_path / "go")
    async with run_control_server(models, runtime) as it:
        peer = await it.peer()
        assert await peer.ask(LoadModel("a", False)) == LoadStatus("fake", "starting")
        peer.send(LoadModel("a", True))
        (tmp_path / "go").touch()
        assert await peer.receive() == LoadStatus("fake", "ready")
        assert await peer.ask(LoadModel("a", False)) == LoadStatus("fake", "ready")
        assert await peer.ask(UnloadModel("a")) == LoadStatus("fake", "stopped")
        assert await peer.ask(UnloadModel("a")) == LoadStatus("fake", "stopped")


@in_loop
async def test_the_status(models: Path, runtime: Path, tmp_path: Path) -> None:
    write_model(models, "a", slots=1, pool_tokens=900, context=300)
    write_model(models, "b", slow_start=tmp_path / "never")
    async with run_control_server(models, runtime, max_concurrent_models=2) as it:
        peer = await it.peer()
        await peer.ask(acquire_message("a"))
        for name in "abb":
            (await it.peer()).send(acquire_message(name))
        await wait_until(lambda: it.desk.leases.in_flight == 4)
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
    async with run_control_server(models, runtime) as it:
        peer = await it.peer()
        await peer.ask(acquire_message("a"))
        peer.send(ReleaseLease("stop", 10, 4, 21, 0.2, 2.0))
        peer.send(
            ReportRequests(
                [
                    RequestRecord("/x", "GET", 200, 0.1),
                    RequestRecord("/y", "POST", 429, 0.2, "miss"),
                ]
            )
        )
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
    monkeypatch.setattr(sampler, "TIMEOUT", 0.05)
    monkeypatch.setattr(
        sampler, "_take_sample", lambda _: free.wait(20) and sampler.ResourceSample({"x": 1.0})
    )
    write_model(models, "a")
    async with run_control_server(models, runtime) as it:
        peer, other = await it.peer(), await it.peer()
        peer.send(Status())
        assert isinstance(await other.ask(acquire_message("a")), LeaseGranted)
        assert (await peer.receive()).system == {}
        assert (await peer.ask(Status())).system == {}, "only one measurement at a time"
        free.set()
        await wait_until(
            lambda: it.desk.sampler._running is not None and it.desk.sampler._running.done()
        )
        assert (await peer.ask(Status())).system == {"x": 1.0}


@in_loop
async def test_answers_are_shared_over_connections(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with run_control_server(models, runtime) as it:
        leader, follower, another, dead = [await it.peer() for _ in range(4)]
        question = CacheLookup(b"k", acquire_message("a"))
        assert isinstance(await leader.ask(question), LeaseGranted)
        for peer in (dead, follower, another):
            peer.send(question)
            await turn()
        assert it.desk.leases.in_flight == 1, "who waits for an answer takes no room"
        dead.close()
        await turn()
        leader.close()
        assert isinstance(await follower.receive(), LeaseGranted), "the next one that lives leads"
        follower.send(ReleaseLease("stop"))
        follower.send(CacheStore(b"answer"))
        assert await another.receive() == CacheHit(b"answer")
        assert await another.ask(question) == CacheHit(b"answer")
        assert it.desk.leases.in_flight == 0, "an answer needs no engine"
        assert isinstance(
            await another.ask(CacheLookup(b"other", acquire_message("a"))), LeaseGranted
        )
        assert it.desk.response_cache.size == {"entries": 1, "bytes": 6}


@in_loop
async def test_responses_are_kept_for_all_connections(models: Path, runtime: Path) -> None:
    async with run_control_server(models, runtime, RESPONSES_STORE_MB="1") as it:
        first = await it.peer()
        assert await first.ask(StoreResponse(b"me", "a", None, ["i"], b"1")) == ResponseStored(True)
        assert await first.ask(StoreResponse(b"me", "b", "a", [], b"2")) == ResponseStored(True)
        assert await first.ask(StoreResponse(b"me", "c", None, [], bytes(2**20))) == ResponseStored(
            False
        )
        first.close()
        peer = await it.peer()
        assert await peer.ask(LoadResponse(b"me", "b", whole=True)) == ResponseLoaded([b"1", b"2"])
        assert await peer.ask(LoadResponse(b"me", "i", item=True)) == ResponseLoaded([b"1"])
        assert await peer.ask(LoadResponse(b"you", "b")) == ResponseLoaded([], "b")
        assert (await peer.ask(Status())).responses["entries"] == 2
        assert await peer.ask(DeleteResponse(b"me", "a")) == ResponseStored(True)
        assert await peer.ask(DeleteResponse(b"me", "a")) == ResponseStored(False)
        assert await peer.ask(LoadResponse(b"me", "b", whole=True)) == ResponseLoaded([], "a")


def sample(it: ControlServer, name: str, **labels: str) -> float | None:
    return it.desk.metrics_registry.registry.get_sample_value(
        f"vllm_obtain_{name}", {"model": "a", "engine": "fake", **labels}
    )
