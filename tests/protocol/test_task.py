"""How long a prompt can be, before anybody has counted its tokens."""

from __future__ import annotations

import pytest

from vllm_obtain.protocol.conversation import UserMessage
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest
from vllm_obtain.protocol.task import Task


@pytest.mark.parametrize(("text", "size"), [("", 0), ("abc", 3), ("äöü", 6), ("🙂", 4)])
def test_bytes_bound_the_tokens(text: str, size: int) -> None:
    asked = CompletionRequest(prompt=text)
    empty = Task(asked, "").length
    assert empty >= 0
    assert Task(asked, text).length == empty + size
    assert Task(asked, [1] * (size + 1)).length == empty + size + 1


def test_a_chat_is_told_from_a_text() -> None:
    assert Task(ChatRequest(messages=[UserMessage("x")]), "x").is_chat
    assert not Task(CompletionRequest(prompt="x"), "x").is_chat
