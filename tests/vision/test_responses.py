"""What a model that can see says, asked through the whole service."""

from __future__ import annotations

import base64
import json
import os
import signal
from functools import partial
from typing import Any

import pytest

from tests.contract.target import run_concurrently
from tests.service import Service
from tests.vision.conftest import BLIND, SEER
from tests.vision.model import TOKENS, png
from vllm_obtain.protocol.engine_request import MARK

ONE, TWO = png(seed=1), png(seed=2)
Body = dict[str, Any]


def data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def part(image: bytes | str) -> Body:
    url = image if isinstance(image, str) else data_url(image)
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: str) -> Body:
    return {"type": "text", "text": words}


def chat(*parts: Body, **more: Any) -> Body:
    message = {"role": "user", "content": list(parts)}
    return {"messages": [message], "max_tokens": 4, "temperature": 0, "logprobs": True, **more}


def ask(service: Service, *parts: Body, **more: Any) -> Body:
    answer: Body = service.json("/v1/chat/completions", chat(*parts, **more))
    return answer


def logprobs(answer: Body, choice: int = 0) -> list[float]:
    return [entry["logprob"] for entry in answer["choices"][choice]["logprobs"]["content"]]


def test_the_image_decides_what_is_said(vision_service: Service) -> None:
    asked = [
        ask(vision_service, text("What is"), part(image), text("this?"))
        for image in (ONE, TWO, ONE)
    ]
    one, two, again = map(logprobs, asked)
    assert one == pytest.approx(again, abs=1e-3)
    assert one != pytest.approx(two, abs=1e-2)
    assert [each["choices"][0]["message"]["content"] for each in asked][0::2] == [
        asked[0]["choices"][0]["message"]["content"]
    ] * 2


def read_stream(service: Service, *parts: Body, **more: Any) -> tuple[str, Body]:
    """The text and the usage of a streamed answer."""
    body = chat(*parts, stream=True, stream_options={"include_usage": True}, **more)
    status, _, answer = service.request("/v1/chat/completions", body)
    assert status == 200, answer
    lines = [line[6:] for line in answer.decode().split("\n\n") if line.startswith("data: {")]
    chunks = [json.loads(line) for line in lines]
    said = [choice["delta"].get("content") or "" for c in chunks for choice in c["choices"]]
    return "".join(said), chunks[-1]["usage"]


def content(answer: Body, choice: int = 0) -> str:
    return str(answer["choices"][choice]["message"]["content"])


def test_an_images_tokens_count(vision_service: Service) -> None:
    plain = ask(vision_service, text("What is this?"))["usage"]
    one = ask(vision_service, text("What is this?"), part(ONE))["usage"]
    two = ask(vision_service, text("What is this?"), part(ONE), part(TWO))["usage"]
    assert one["prompt_tokens"] == plain["prompt_tokens"] + TOKENS
    assert two["prompt_tokens"] == plain["prompt_tokens"] + 2 * TOKENS
    assert one["completion_tokens"] == 4


def test_images_keep_their_order_and_place(vision_service: Service) -> None:
    asked = [[ONE, TWO], [TWO, ONE], [ONE, TWO]]
    found = [
        logprobs(ask(vision_service, *map(part, images), text("Compare."))) for images in asked
    ]
    assert found[0] == pytest.approx(found[2], abs=1e-3)
    assert found[0] != pytest.approx(found[1], abs=1e-2)
    behind = logprobs(ask(vision_service, text("Compare."), part(ONE), part(TWO)))
    assert behind != pytest.approx(found[0], abs=1e-2)


def test_a_kept_prompt_is_found_again_and_never_for_another_image(vision_service: Service) -> None:
    """With another size, too: the pixels of these two images are the same bytes."""
    asked = text("What colour?")
    fresh = {size: ask(vision_service, asked, part(png(*size))) for size in ((12, 24), (24, 12))}
    again = {size: ask(vision_service, asked, part(png(*size))) for size in fresh}
    for size, first in fresh.items():
        assert logprobs(again[size]) == pytest.approx(logprobs(first), abs=1e-3)
    assert logprobs(fresh[12, 24]) != pytest.approx(logprobs(fresh[24, 12]), abs=1e-2)
    last = ask(vision_service, asked, part(png(24, 12)))["usage"]
    assert last["prompt_tokens_details"]["cached_tokens"] > TOKENS


def test_a_stream_says_the_same(vision_service: Service) -> None:
    plain = ask(vision_service, text("What is this?"), part(ONE))
    said, usage = read_stream(vision_service, text("What is this?"), part(ONE))
    assert said == content(plain)
    assert usage["prompt_tokens"] == plain["usage"]["prompt_tokens"]
    assert usage["completion_tokens"] == plain["usage"]["completion_tokens"]


def test_what_works_without_images_works_with_them(vision_service: Service) -> None:
    shown = (text("Which one?"), part(ONE))
    chosen = ask(vision_service, *shown, guided_choice=["apple", "pear"], max_tokens=8)
    assert content(chosen) in ("apple", "pear")
    assert chosen["choices"][0]["finish_reason"] == "stop"

    three = ask(vision_service, *shown, n=3, temperature=1, seed=5)
    again = ask(vision_service, *shown, n=3, temperature=1, seed=5)
    assert [content(three, n) for n in range(3)] == [content(again, n) for n in range(3)]
    assert len({content(three, n) for n in range(3)}) > 1
    assert three["usage"]["completion_tokens"] == 12

    whole = content(ask(vision_service, *shown, max_tokens=12))
    stop = whole[5:8]
    assert (
        content(ask(vision_service, *shown, max_tokens=12, stop=stop)) == whole[: whole.index(stop)]
    )

    function = {
        "name": "look",
        "parameters": {
            "additionalProperties": False,
            "properties": {"at": {"const": 1}},
            "required": ["at"],
        },
    }
    tools = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    called = ask(vision_service, *shown, max_tokens=64, **tools)["choices"][0]
    assert called["finish_reason"] == "tool_calls"
    assert called["message"]["tool_calls"][0]["function"]["name"] == "look"

    top = ask(vision_service, *shown, top_logprobs=3)["choices"][0]["logprobs"]["content"]
    assert [len(entry["top_logprobs"]) for entry in top] == [3] * 4


def test_many_at_once(vision_service: Service) -> None:
    images = [png(seed=10 + number) for number in range(8)]
    alone = [logprobs(ask(vision_service, part(image), text("?"))) for image in images]
    asks = [partial(ask, vision_service, part(image), text("?")) for image in images]
    for found, expected in zip(run_concurrently(asks), alone, strict=True):
        assert logprobs(found) == pytest.approx(expected, abs=0.01)


def test_every_api_takes_images(vision_service: Service) -> None:
    """The same question in four languages has the same answer."""
    encoded = base64.b64encode(ONE).decode()
    said = content(ask(vision_service, text("What is it?"), part(ONE)))
    greedy: Body = {"model": SEER, "temperature": 0}
    source = {"type": "base64", "media_type": "image/png", "data": encoded}
    turn = {"role": "user", "content": [text("What is it?"), {"type": "image", "source": source}]}
    message = vision_service.json("/v1/messages", {**greedy, "messages": [turn], "max_tokens": 4})
    assert message["content"][0]["text"] == said

    parts = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": data_url(ONE), "detail": "auto"},
    ]
    fields = {**greedy, "input": [{"role": "user", "content": parts}], "max_output_tokens": 4}
    response = vision_service.json("/v1/responses", fields)
    assert response["output"][0]["content"][0]["text"] == said
    more = {**greedy, "input": "And now?", "max_output_tokens": 4}
    next_one = vision_service.json(
        "/v1/responses", {**more, "previous_response_id": response["id"]}
    )
    assert next_one["usage"]["input_tokens"] > response["usage"]["input_tokens"]

    options = {"temperature": 0, "num_predict": 4}
    shown = {"role": "user", "content": "What is it?", "images": [encoded]}
    body: Body = {"model": SEER, "stream": False, "options": options}
    answer = vision_service.json("/api/chat", {**body, "messages": [shown]})
    assert answer["message"]["content"] == said
    made = vision_service.json(
        "/api/generate", {**body, "prompt": "What is it?", "images": [encoded]}
    )
    assert made["response"] == said


def test_who_can_see_is_told(vision_service: Service) -> None:
    found = {
        model["id"]: model["capabilities"] for model in vision_service.json("/v1/models")["data"]
    }
    assert (found[SEER]["vision"], found[SEER]["vision_reason"]) == (True, None)
    assert found[BLIND]["vision"] is False
    assert "mmproj" in found[BLIND]["vision_reason"]
    assert "vision" in vision_service.json("/api/show", {"model": SEER})["capabilities"]
    assert "vision" not in vision_service.json("/api/show", {"model": BLIND})["capabilities"]


def test_texts_are_answered_as_before(vision_service: Service) -> None:
    """A text that holds the words for an image's place is a text, while there is no image."""
    assert ask(vision_service, text(f"Hi {MARK}"))["usage"]["completion_tokens"] == 4
    answer = vision_service.json("/v1/completions", {"prompt": f"Hi {MARK}", "max_tokens": 2})
    assert answer["usage"]["completion_tokens"] == 2


def test_a_killed_engine_is_a_replay(vision_service: Service) -> None:
    expected = logprobs(ask(vision_service, part(ONE), text("Go on.")))
    pid = next(each["pid"] for each in vision_service.status()["engines"] if each["model"] == SEER)
    os.kill(pid, signal.SIGKILL)
    assert logprobs(ask(vision_service, part(ONE), text("Go on."))) == pytest.approx(
        expected, abs=1e-3
    )
