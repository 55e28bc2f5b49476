"""Chat and text completions, plain and streamed: the same shapes on every engine."""

from __future__ import annotations

import threading

import openai
import pytest

from tests.contract.target import CHAT, TEXT, Target, run_concurrently
from tests.fleet import MODEL
from tests.waiting import eventually

HI = [{"role": "user", "content": "Say hi."}]
USAGE = {"include_usage": True}


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HI, max_tokens=4, temperature=0)
    (choice,) = answer.choices
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion"
    assert answer.model == MODEL and choice.index == 0
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length" and choice.logprobs is None


def test_a_text_completion(real_client: openai.OpenAI, embedded_target: Target) -> None:
    ids = embedded_target.tokenizer.encode("Once upon a").ids
    answers = [
        real_client.completions.create(model=MODEL, prompt=prompt, max_tokens=3, temperature=0)
        for prompt in ("Once upon a", ids)
    ]
    for answer in answers:
        assert answer.id.startswith("cmpl-") and answer.object == "text_completion"
        assert answer.choices[0].text.startswith(" time")
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None and answer.usage.prompt_tokens == len(ids)


def test_a_chat_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=HI, max_tokens=4, temperature=0, stream=True, stream_options=USAGE
    )
    first, *middle, last, usage = list(stream)
    chunks = [first, *middle, last, usage]
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert (first.object, first.model) == ("chat.completion.chunk", MODEL)
    assert first.choices[0].delta.role == "assistant" and first.choices[0].delta.content == ""
    assert all(chunk.choices[0].delta.content for chunk in middle)
    assert all(chunk.choices[0].finish_reason is None for chunk in [first, *middle])
    assert last.choices[0].finish_reason == "length" and last.choices[0].delta.content is None
    assert usage.choices == [] and usage.usage is not None
    assert all(chunk.usage is None for chunk in [first, *middle, last])


def test_a_text_stream(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model=MODEL, prompt="Once upon a", max_tokens=4, temperature=0, stream=True
    )
    *middle, last = list(stream)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in [*middle, last]}) == 1
    assert {chunk.object for chunk in middle} == {"text_completion"}
    assert all(chunk.choices[0].finish_reason is None for chunk in middle)
    assert last.choices[0].finish_reason == "length" and last.choices[0].text == ""


def test_an_answer_comes_in_pieces_as_it_is_made(target: Target) -> None:
    pieces = [piece for piece in target.complete("1, 2, 3,", stream=True).pieces if piece]
    assert len(pieces) >= 4, "at most two of the 8 tokens came together"


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_plain_and_streamed_answers_say_the_same(path: str, target: Target) -> None:
    body = {"temperature": 0, "max_tokens": 6}
    plain = target.ask(path, body)
    told = target.ask(path, {**body, "stream": True, "stream_options": USAGE})
    untold = target.ask(path, {**body, "stream": True})
    assert plain.text == told.text == untold.text != ""
    assert plain.finish == told.finish == untold.finish
    assert untold.usage is None and plain.usage is not None and told.usage is not None
    for usage in (plain.usage, told.usage):
        details = usage.pop("prompt_tokens_details")
        assert 0 <= details["cached_tokens"] < usage["prompt_tokens"]
    assert plain.usage == told.usage
    assert plain.usage["completion_tokens"] == 6 and plain.usage["prompt_tokens"] > 0
    assert plain.usage["total_tokens"] == 6 + plain.usage["prompt_tokens"]
    assert plain.usage["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_no_chunk_cuts_a_character(embedded_target: Target) -> None:
    prompt = "🎉 你好 🎉 你好 🎉 你好 🎉 你好 🎉 你好"
    # The emoji is several tokens: some of these answers end within it, and do not say that part.
    streams = [
        embedded_target.complete(prompt, stream=True, max_tokens=limit) for limit in (6, 7, 8)
    ]
    for streamed in streams:
        assert "\ufffd" not in streamed.text and "🎉" in streamed.text
    assert embedded_target.complete(prompt, max_tokens=7).text == streams[1].text


def test_8_requests_at_once_run_side_by_side_and_are_not_mixed_up(target: Target) -> None:
    words = [" one", " red", " cat", " sun", " dog", " tea", " box", " map"]
    # One after the other would take far longer than they wait for each other.
    all_begun = threading.Barrier(len(words), timeout=20)

    def ask(word: str) -> str:
        body = {"prompt": "Say:", "max_tokens": 900, "logit_bias": {target.token(word): 100}}
        stream = target.stream(TEXT, {**body, "temperature": 0})
        text = next(stream)["choices"][0]["text"]
        all_begun.wait()
        while len(text) < len(2 * word):
            text += next(stream)["choices"][0]["text"]
        stream.close()
        return text

    answers = run_concurrently([lambda word=word: ask(word) for word in words])
    assert all(text.startswith(2 * word) for word, text in zip(words, answers, strict=True))
    eventually(lambda: target.service.engine()["in_flight"] == 0)
