"""What is written for an engine before the lease says that it is the one."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator

import pytest

from tests.engine_requests import engine_request as made
from vllm_obtain.control.messages import LeaseGranted
from vllm_obtain.engines.llama_cpp.adapter import LlamaCpp
from vllm_obtain.engines.mlx.adapter import Mlx
from vllm_obtain.gateway.inference.prebuilt import LONGEST, RequestPrebuilder
from vllm_obtain.protocol.engine_request import EngineRequest, ImageInput
from vllm_obtain.protocol.requests import CompletionRequest

ENGINES = {"llama_cpp": LlamaCpp(), "mlx": Mlx()}
REQUEST = CompletionRequest(prompt="Hi", max_tokens=7)
TASK = made(REQUEST, "Hi")


def lease(engine: str = "llama_cpp", socket: str = "/run/e1.sock") -> LeaseGranted:
    return LeaseGranted(engine, socket, "model", context=100, tokens=10, loaded_at=1.0)


@pytest.fixture
def prebuilder() -> Iterator[RequestPrebuilder]:
    made = RequestPrebuilder(ENGINES.__getitem__, time.monotonic() + 10, None, None)
    with contextlib.closing(made):
        yield made


def test_the_engine_that_served_before_serves_again(prebuilder: RequestPrebuilder) -> None:
    prebuilder.prebuild(lease(), TASK, 2)
    built = prebuilder.take(lease())
    assert built is not None and built.body == LlamaCpp().body(TASK, 7)
    assert prebuilder.take(lease()) is None, "a built is taken once"
    built.connection.close()


@pytest.mark.parametrize(
    "granted", [lease(socket="/run/e2.sock"), lease("mlx")], ids=["its successor", "another engine"]
)
def test_another_process_is_asked_anew(
    prebuilder: RequestPrebuilder, granted: LeaseGranted
) -> None:
    prebuilder.prebuild(lease(), TASK, 2)
    assert prebuilder.take(granted) is None
    built = prebuilder.build(ENGINES[granted.engine], granted, TASK)
    assert built.fits(granted) and built.body == ENGINES[granted.engine].body(TASK, 7)
    built.connection.close()


@pytest.mark.parametrize(
    "engine_request",
    [
        made(REQUEST, [5] * (LONGEST + 1)),
        made(REQUEST, "Hi", images=(ImageInput(b"", "image/png", 1, 1, "messages"),)),
        made(CompletionRequest(prompt="Hi", min_tokens=3), "Hi"),
    ],
    ids=["long", "with an image", "with what that engine cannot do"],
)
def test_nothing_is_written_ahead(
    prebuilder: RequestPrebuilder, engine_request: EngineRequest
) -> None:
    prebuilder.prebuild(lease(), engine_request, engine_request.length)
    assert prebuilder.take(lease()) is None


def test_nothing_is_known_of_a_model_that_nobody_asked_yet(prebuilder: RequestPrebuilder) -> None:
    prebuilder.prebuild(None, TASK, 2)
    assert prebuilder.take(lease()) is None


def test_what_fails_ahead_fails_when_it_counts_only(
    prebuilder: RequestPrebuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr("vllm_obtain.gateway.inference.prebuilt.EngineConnection", full)
    prebuilder.prebuild(lease(), TASK, 2)
    assert prebuilder.take(lease()) is None
    with pytest.raises(OSError, match="too many"):
        prebuilder.build(ENGINES["llama_cpp"], lease(), TASK)
