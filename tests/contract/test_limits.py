"""What ends a request before its time: a full context, a client that leaves."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

from tests.contract.target import CHAT, NO_END, TEXT, Body, Target
from tests.waiting import eventually

# Of one core, an engine without work; far below what each needs to make tokens.
IDLE_CORES = 0.5
GONE_SECONDS = 10


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_prompt_longer_than_the_context_is_told_with_both_numbers(
    path: str, stream: bool, target: Target
) -> None:
    words = "word " * (target.context + 10)
    messages = [{"role": "user", "content": words}]
    prompt: Any = [5] * (target.context + 10)
    body: Body = {"messages": messages} if path == CHAT else {"prompt": prompt}
    error = target.refused(path, {**body, "stream": stream})
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == ("messages" if path == CHAT else "prompt")
    context, found = map(int, re.findall(r"\d+", error["message"])[:2])
    assert context == target.context <= found


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_client_that_leaves_frees_its_slot_during_the_answer(
    stream: bool, target: Target
) -> None:
    body = {"prompt": "It was", "max_tokens": 900, "logit_bias": NO_END, "stream": stream}
    line = target.send(TEXT, body)
    if stream:
        assert line.recv(1)
    _leaves(target, line)


def test_a_client_that_leaves_frees_its_slot_during_the_prompt(embedded_target: Target) -> None:
    prompt = [n % 1000 + 100 for n in range(embedded_target.context - 20)]
    _leaves(embedded_target, embedded_target.send(TEXT, {"prompt": prompt, "stream": True}))


def _leaves(target: Target, line: socket.socket) -> None:
    eventually(lambda: target.service.engine()["in_flight"] == 1, interval=0.01)
    line.shutdown(socket.SHUT_RDWR)
    line.close()
    eventually(lambda: target.service.engine()["in_flight"] == 0, timeout=GONE_SECONDS)
    # The gateway has let go; the engine has too, if it rests.
    eventually(lambda: target.busy(0.2) < IDLE_CORES, timeout=GONE_SECONDS)
