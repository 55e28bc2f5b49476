from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vllm_obtain import errors
from vllm_obtain.control import messages
from vllm_obtain.control.framing import FrameDecoder, frame
from vllm_obtain.control.messages import EngineStatus, ErrorReply, Message, RequestRecord
from vllm_obtain.protocol.cache_isolation import CacheIsolation

ENGINE = EngineStatus(
    engine="fake",
    model="ä",
    state="ready",
    pid=5,
    memory_bytes=2**40,
    in_flight=1,
    queue=0,
    restarts=0,
    last_error=None,
    slots=4,
    context=None,
    tokens_reserved=0,
    tokens_pool=None,
    load_seconds=0.5,
    idle_seconds=None,
)
SAID: list[Message] = [
    messages.RegisterOwner("v", 1, 1.5),
    messages.AcquireLease("a", 5, None, 0.5),
    messages.AcquireLease("a", 5, 7, 0.5, choices=3),
    messages.AcquireLease("a", 5, 7, 0.5, caller=messages.CallerIdentity("k", 1, 2, True)),
    messages.AcquireLease("a", 5, 7, 0.5, fingerprint=b"\xff"),
    messages.ChargeQuota(messages.CallerIdentity("k", 1, 2)),
    messages.Usage(),
    messages.AdjustReservation(7),
    messages.ExtendLease(512),
    messages.ReleaseLease("stop", 1, 2, 3, 0.5, 1.5),
    messages.ReleaseLease("cancelled"),
    messages.LoadModel("a", True),
    messages.UnloadModel("a"),
    messages.Status(),
    messages.Metrics(),
    messages.ReportRequests(
        [RequestRecord("/", "GET", 200, 0.1), RequestRecord("/x", "POST", 500, 2, "hit")]
    ),
    messages.CacheLookup(b"\0\xff", messages.AcquireLease("a", 1, 1, 9.0)),
    messages.CacheStore(b"\0\xff"),
    messages.StoreResponse(b"\xff", "resp_1", None, ["msg_1"], b"{}"),
    messages.LoadResponse(b"\xff", "resp_1", whole=True),
    messages.DeleteResponse(b"\xff", "resp_1"),
    messages.ListQuarantine(),
    messages.ClearQuarantine(),
    messages.StartDownload("qwen3-8b", "", "gguf", True),
    messages.StartDownload("qwen3-8b", task="update", keep=False),
    messages.InspectModels("verify", ["qwen3-8b"]),
    messages.WaitForDownload("a1", 3, 5.0),
    messages.CancelDownload("a1"),
    messages.ListDownloads(),
    messages.RemoveModel("a"),
    messages.StopSupervisor(),
]
ANSWERED: list[Message] = [
    messages.OwnerRegistered("v", 1),
    messages.LeaseGranted("fake", "/s", "a", 512, 5, 1.5),
    messages.LeaseGranted("fake", "/s", "a", 1, 5, 1.5, isolation=CacheIsolation("s", 1)),
    messages.LeaseExtended(0),
    messages.QuotaCharged({"x-ratelimit-limit-requests": "1"}),
    messages.UsageReply({"k": messages.KeyUsage(1, 2, 3, 4, 5.5)}),
    messages.LoadStatus("fake", "ready"),
    messages.StatusReply(1, 2.5, [ENGINE], {"cpu_percent": 1.0}, 3, {"entries": 1}),
    messages.MetricsReply("# HELP\n"),
    messages.CacheHit(b"\xff"),
    messages.ResponseStored(True),
    messages.ResponseLoaded([b"\xff"]),
    messages.ResponseLoaded([], "resp_1"),
    messages.QuarantineReply([messages.QuarantineEntry("ff", "a", "e", 2, 139, 1.5, 60)]),
    messages.QuarantineCleared(1),
    messages.DownloadState("a1", "qwen3-8b", "", 1, "failed", error="no", error_status=404),
    messages.ModelsInspected(b"[]"),
    messages.DownloadList([messages.DownloadState("a1", "qwen3-8b", "", 1)]),
    messages.ModelRemoved(["a.gguf"], 5),
    ErrorReply("no", 400, "invalid_request_error", "c", "p", 1.5, False),
]


@pytest.mark.parametrize(
    ("sent", "decode"),
    [(message, messages.decode_request) for message in SAID]
    + [(message, messages.decode_reply) for message in ANSWERED],
)
def test_messages_arrive_as_they_were_sent(sent: Message, decode: Any) -> None:
    (body,) = FrameDecoder().feed(frame(sent))
    assert decode(body) == sent


def test_the_wire_keeps_the_names_of_earlier_versions() -> None:
    isolation = CacheIsolation("s", 1)
    granted = messages.LeaseGranted("fake", "/s", "a", 512, 5, 1.5, isolation=isolation)
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(granted))
    assert sent["kind"] == "Granted" and "apart" in sent and "isolation" not in sent


def test_every_message_is_tried_above() -> None:
    assert {type(message) for message in SAID} == set(messages.REQUESTS)
    assert {type(message) for message in ANSWERED} == set(messages.REPLIES)


@pytest.mark.parametrize(
    "error",
    [
        errors.ModelNotFound("x", ["a"]),
        errors.Overloaded("full", retry_after=7.5),
        errors.RateLimited("slow", headers={"x-ratelimit-limit-tokens": "1"}),
        errors.EngineFailed("no", status=503, code="model_load_failed", retry=False),
        errors.RequestTimeout("late"),
        errors.RequestQuarantined("again"),
        errors.InsufficientMemory("too large", retry=False),
        errors.ContextLengthExceeded(9, 5),
        errors.ServiceError("plain"),
    ],
)
def test_an_error_arrives_as_it_was_raised(error: errors.ServiceError) -> None:
    (body,) = FrameDecoder().feed(frame(ErrorReply.of(error)))
    made = msgspec.msgpack.Decoder(ErrorReply).decode(body).error()
    fields = ["message", "status", "type", "code", "param", "retry_after", "retry"]
    assert [getattr(made, name) for name in fields] == [getattr(error, name) for name in fields]
