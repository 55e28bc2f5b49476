"""What is written for an engine before the lease says that it is the one."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator

import pytest

from vllm_obtain.api.draft import LONGEST, Drafting
from vllm_obtain.engines.llama_cpp import LlamaCpp
from vllm_obtain.engines.mlx_engine import Mlx
from vllm_obtain.messages import Granted
from vllm_obtain.protocol.requests import CompletionRequest
from vllm_obtain.protocol.task import Image, Task

ENGINES = {"llama_cpp": LlamaCpp(), "mlx": Mlx()}
REQUEST = CompletionRequest(prompt="Hi", max_tokens=7)
TASK = Task(REQUEST, "Hi")


def lease(engine: str = "llama_cpp", socket: str = "/run/e1.sock") -> Granted:
    return Granted(engine, socket, "model", context=100, tokens=10, loaded_at=1.0)


@pytest.fixture
def drafting() -> Iterator[Drafting]:
    made = Drafting(ENGINES.__getitem__, time.monotonic() + 10, None, None)
    with contextlib.closing(made):
        yield made


def test_the_engine_that_served_before_serves_again(drafting: Drafting) -> None:
    drafting.guess(lease(), TASK, 2)
    draft = drafting.guessed(lease())
    assert draft is not None and draft.body == LlamaCpp().body(TASK, 7)
    assert drafting.guessed(lease()) is None, "a draft is taken once"
    draft.exchange.close()


@pytest.mark.parametrize(
    "granted", [lease(socket="/run/e2.sock"), lease("mlx")], ids=["its successor", "another engine"]
)
def test_another_process_is_asked_anew(drafting: Drafting, granted: Granted) -> None:
    drafting.guess(lease(), TASK, 2)
    assert drafting.guessed(granted) is None
    draft = drafting.write(granted, TASK)
    assert draft.fits(granted) and draft.body == ENGINES[granted.engine].body(TASK, 7)
    draft.exchange.close()


@pytest.mark.parametrize(
    "task",
    [
        Task(REQUEST, [5] * (LONGEST + 1)),
        Task(REQUEST, "Hi", images=(Image(b"", "image/png", 1, 1, "messages"),)),
        Task(CompletionRequest(prompt="Hi", min_tokens=3), "Hi"),
    ],
    ids=["long", "with an image", "with what that engine cannot do"],
)
def test_nothing_is_written_ahead(drafting: Drafting, task: Task) -> None:
    drafting.guess(lease(), task, task.length)
    assert drafting.guessed(lease()) is None


def test_nothing_is_known_of_a_model_that_nobody_asked_yet(drafting: Drafting) -> None:
    drafting.guess(None, TASK, 2)
    assert drafting.guessed(lease()) is None


def test_what_fails_ahead_fails_when_it_counts_only(
    drafting: Drafting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr("vllm_obtain.api.draft.Exchange", full)
    drafting.guess(lease(), TASK, 2)
    assert drafting.guessed(lease()) is None
    with pytest.raises(OSError, match="too many"):
        drafting.write(lease(), TASK)
