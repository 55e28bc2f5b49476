from __future__ import annotations

import pytest

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.protocol.prompts import byte_length, flatten
from vllm_obtain.protocol.requests import (
    AssistantMessage,
    ChatRequest,
    CompletionRequest,
    DeveloperMessage,
    ImagePart,
    ImageURL,
    Message,
    SystemMessage,
    TextPart,
    UserMessage,
)


def test_roles_and_parts() -> None:
    messages: list[Message] = [
        SystemMessage("s"),
        DeveloperMessage("d"),
        UserMessage([TextPart("one"), TextPart("two")]),
        AssistantMessage("a"),
        AssistantMessage("a", name="n", reasoning="why"),
        AssistantMessage(refusal="no"),
        UserMessage("", name="n"),
    ]
    assert flatten(messages) == [
        {"role": "system", "content": "s"},
        {"role": "system", "content": "d"},
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "a", "name": "n", "reasoning_content": "why"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "", "name": "n"},
    ]


@pytest.mark.parametrize(
    ("message", "error", "param"),
    [
        (AssistantMessage(), InvalidRequest, "messages[1].content"),
        (AssistantMessage("x", tool_calls=[1]), UnsupportedParameter, "messages[1].tool_calls"),
        (
            UserMessage([TextPart("x"), ImagePart(ImageURL("data:"))]),
            InvalidRequest,
            "messages[1].content[1]",
        ),
    ],
)
def test_what_a_text_model_cannot_take(
    message: Message, error: type[InvalidRequest], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        flatten([UserMessage("x"), message])
    assert type(caught.value) is error
    assert caught.value.param == param


@pytest.mark.parametrize(("text", "size"), [("", 0), ("abc", 3), ("äöü", 6), ("🙂", 4)])
def test_bytes_bound_the_tokens(text: str, size: int) -> None:
    empty = byte_length(ChatRequest(messages=[UserMessage("")]))
    assert empty > 0
    assert byte_length(ChatRequest(messages=[UserMessage(text)])) == empty + size
    parts = [TextPart(text), TextPart(text)]
    assert byte_length(ChatRequest(messages=[UserMessage(parts)])) == empty + 2 * size
    assert byte_length(ChatRequest(messages=[UserMessage(text)] * 2)) > empty + 2 * size
    said = AssistantMessage(text, name=text, reasoning=text)
    assert byte_length(ChatRequest(messages=[said])) == empty + 3 * size
    assert byte_length(CompletionRequest(prompt=text)) >= size
    assert byte_length(CompletionRequest(prompt=[1] * (size + 1))) >= size + 1
