from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from vllm_obtain import errors, messages
from vllm_obtain.messages import EngineStatus, Message, Refused, Served
from vllm_obtain.supervisor.wire import Frames, frame

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
    messages.Join("v", 1, 1.5),
    messages.Acquire("a", 5, None, 0.5),
    messages.Acquire("a", 5, 7, 0.5, choices=3),
    messages.Acquire("a", 5, 7, 0.5, caller=messages.Caller("k", 1, 2, True)),
    messages.Acquire("a", 5, 7, 0.5, fingerprint=b"\xff"),
    messages.Spend(messages.Caller("k", 1, 2)),
    messages.Usage(),
    messages.Settle(7),
    messages.Extend(512),
    messages.Release("stop", 1, 2, 3, 0.5, 1.5),
    messages.Release("cancelled"),
    messages.Load("a", True),
    messages.Unload("a"),
    messages.Status(),
    messages.Metrics(),
    messages.Report([Served("/", "GET", 200, 0.1), Served("/x", "POST", 500, 2, "hit")]),
    messages.Recall(b"\0\xff", messages.Acquire("a", 1, 1, 9.0)),
    messages.Remember(b"\0\xff"),
    messages.Keep(b"\xff", "resp_1", None, ["msg_1"], b"{}"),
    messages.Fetch(b"\xff", "resp_1", whole=True),
    messages.Forget(b"\xff", "resp_1"),
    messages.Suspects(),
    messages.Pardon(),
    messages.Pull("qwen3-8b", "", "gguf", True),
    messages.Pull("qwen3-8b", task="update", keep=False),
    messages.Look("verify", ["qwen3-8b"]),
    messages.PullNews("a1", 3, 5.0),
    messages.PullCancel("a1"),
    messages.Pulls(),
    messages.Remove("a"),
    messages.Stop(),
]
ANSWERED: list[Message] = [
    messages.Welcome("v", 1),
    messages.Granted("fake", "/s", "a", 512, 5, 1.5),
    messages.Extended(0),
    messages.Spent({"x-ratelimit-limit-requests": "1"}),
    messages.UsageReply({"k": messages.KeyUsage(1, 2, 3, 4, 5.5)}),
    messages.Done("fake", "ready"),
    messages.StatusReply(1, 2.5, [ENGINE], {"cpu_percent": 1.0}, 3, {"entries": 1}),
    messages.MetricsReply("# HELP\n"),
    messages.Remembered(b"\xff"),
    messages.Kept(True),
    messages.Fetched([b"\xff"]),
    messages.Fetched([], "resp_1"),
    messages.QuarantineReply([messages.Quarantined("ff", "a", "e", 2, 139, 1.5, 60)]),
    messages.Pardoned(1),
    messages.PullState("a1", "qwen3-8b", "", 1, "failed", error="no", error_status=404),
    messages.Looked(b"[]"),
    messages.PullsReply([messages.PullState("a1", "qwen3-8b", "", 1)]),
    messages.Removed(["a.gguf"], 5),
    Refused("no", 400, "invalid_request_error", "c", "p", 1.5, False),
]


@pytest.mark.parametrize(
    ("sent", "kind"),
    [(message, messages.Request) for message in SAID]
    + [(message, messages.Reply) for message in ANSWERED],
)
def test_messages_arrive_as_they_were_sent(sent: Message, kind: Any) -> None:
    (body,) = Frames().feed(frame(sent))
    assert msgspec.msgpack.Decoder(kind).decode(body) == sent


def test_every_message_is_tried_above() -> None:
    assert {type(message) for message in SAID} == set(get_args(messages.Request))
    assert {type(message) for message in ANSWERED} == set(get_args(messages.Reply))


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
    (body,) = Frames().feed(frame(Refused.of(error)))
    made = msgspec.msgpack.Decoder(Refused).decode(body).error()
    fields = ["message", "status", "type", "code", "param", "retry_after", "retry"]
    assert [getattr(made, name) for name in fields] == [getattr(error, name) for name in fields]
