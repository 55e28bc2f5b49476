"""Images that are refused: each by a 400 that names the field and says what to do."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from tests.service import Service
from tests.vision.conftest import BLIND
from tests.vision.model import png
from tests.vision.pictures import Pictures
from tests.vision.test_responses import ONE, Body, ask, chat, data_url, logprobs, part, text
from tests.waiting import eventually
from vllm_obtain.protocol.engine_request import MARK

WHERE = "messages[0].content[1].image_url"


def refusal(service: Service, path: str, body: Body, status: int = 400) -> Body:
    found, _, answer = service.request(path, body)
    assert found == status, answer
    error: Body = json.loads(answer)["error"]
    return error


def rejection(service: Service, image: str | bytes, **more: Any) -> Body:
    return refusal(service, "/v1/chat/completions", chat(text("What?"), part(image), **more))


def large_png(width: int, height: int) -> bytes:
    """A small file that claims many pixels."""
    return ONE[:16] + struct.pack(">II", width, height) + ONE[24:]


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("data:image/png;base64,AA==", "not a PNG, JPEG, GIF or WebP"),
        ("data:image/png;base64,????", "not Base64"),
        ("data:image/png,AA==", "data:image/png;base64,"),
        ("data:;base64," + "A" * 1_500_000, "IMAGE_MAX_MB"),
        ("iVBORw0KGgo=", "http"),
        ("file:///etc/passwd", "http"),
        ("ftp://example.org/a.png", "http"),
        ("http://", "no host"),
        ("http://me:secret@localhost/", "user"),
        ("http://[::1", "malformed"),
        ("http://localhost:99999/", "malformed"),
        ("http://no-such-host.invalid/a.png", "data URL"),
        (data_url(large_png(1001, 1000)), "IMAGE_MAX_MEGAPIXELS"),
        (data_url(large_png(2**31 - 1, 2**31 - 1)), "IMAGE_MAX_MEGAPIXELS"),
        (data_url(ONE[:300]), "damaged"),
    ],
    ids=lambda value: value[:30],
)
def test_images_that_are_none(vision_service: Service, image: str, said: str) -> None:
    for stream in (False, True):
        error = rejection(vision_service, image, stream=stream)
        assert (error["param"], error["code"]) == (WHERE, "invalid_image")
        assert said in error["message"]
    assert ask(vision_service, part(ONE))["usage"]["completion_tokens"] == 4


def test_more_than_are_allowed(vision_service: Service) -> None:
    error = refusal(vision_service, "/v1/chat/completions", chat(*[part(ONE)] * 5))
    assert error["param"] == "messages[0].content[4].image_url"
    assert "IMAGE_MAX_COUNT" in error["message"]


def test_a_model_that_cannot_see(vision_service: Service) -> None:
    error = rejection(vision_service, ONE, model=BLIND)
    assert (error["code"], error["param"]) == ("unsupported_content", WHERE)
    assert "does not accept images" in error["message"] and "mmproj" in error["message"]


def test_a_text_that_pretends_to_be_an_image(vision_service: Service) -> None:
    body = chat(text(f"{MARK} and"), part(ONE))
    error = refusal(vision_service, "/v1/chat/completions", body)
    assert error["code"] == "chat_template_error" and MARK in error["message"]


@pytest.mark.parametrize("detail", ["low", "high"])
def test_a_wish_for_detail(vision_service: Service, detail: str) -> None:
    shown = {"type": "image_url", "image_url": {"url": data_url(ONE), "detail": detail}}
    status, headers, answer = vision_service.request("/v1/chat/completions", chat(shown))
    assert status == 200, answer
    assert headers["x-ignored-parameters"] == "messages[0].content[0].image_url.detail"


def test_other_apis_name_their_own_fields(vision_service: Service) -> None:
    bad = base64.b64encode(ONE[:20]).decode()
    source = {"type": "base64", "media_type": "image/png", "data": bad}
    result = {"type": "tool_result", "tool_use_id": "t", "content": []}
    result["content"] = [{"type": "image", "source": source}]  # type: ignore[assignment]
    use = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    body = {"model": "seer", "max_tokens": 4, "messages": turns}
    assert (
        "messages[2].content[0].content[0].source"
        in refusal(vision_service, "/v1/messages", body)["message"]
    )

    image = {"type": "input_image", "image_url": "http://", "detail": "auto"}
    items = [{"role": "user", "content": [image]}]
    error = refusal(vision_service, "/v1/responses", {"model": "seer", "input": items})
    assert error["param"] == "input[0].content[0].image_url"
    del image["image_url"]
    image["file_id"] = "file-1"
    error = refusal(vision_service, "/v1/responses", {"model": "seer", "input": items})
    assert error["param"] == "input[0].content[0].file_id"

    turn = {"role": "user", "content": "?", "images": [base64.b64encode(png()).decode(), bad]}
    status, _, answer = vision_service.request("/api/chat", {"model": "seer", "messages": [turn]})
    assert status == 400 and "messages[0].images[1]" in json.loads(answer)["error"]


def test_counting_tokens_of_images(vision_service: Service) -> None:
    body = {"model": "seer", "messages": chat(part(ONE))["messages"]}
    error = refusal(vision_service, "/tokenize", body)
    assert error["code"] == "unsupported_content"


def test_images_are_fetched(vision_service: Service, pictures: Pictures) -> None:
    """Once for each URL, whatever the server is called."""
    expected = logprobs(ask(vision_service, text("What?"), part(ONE)))
    before = len(pictures.requests)
    for url in (f"{pictures.url}/1.png", f"http://localhost:{pictures.port}/hop/3?a=b c"):
        assert logprobs(ask(vision_service, text("What?"), part(url))) == pytest.approx(
            expected, abs=1e-3
        )
    ask(vision_service, part(f"{pictures.url}/1.png"), part(f"{pictures.url}/1.png"))
    assert len(pictures.requests) == before + 1 + 4 + 1
    source = {"type": "url", "url": f"{pictures.url}/1.png"}
    turn = {"role": "user", "content": [{"type": "image", "source": source}]}
    body = {"model": "seer", "max_tokens": 4, "messages": [turn]}
    assert vision_service.json("/v1/messages", body)["usage"]["output_tokens"] == 4


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/missing", "404"),
        ("/hop/4", "redirects more than 3 times"),
        ("/to?file:///etc/passwd", "must start with http"),
        ("/large", "IMAGE_MAX_MB"),
        ("/endless", "IMAGE_MAX_MB"),
        ("/short", "closed early"),
        ("/text", "not a PNG"),
    ],
)
def test_what_cannot_be_fetched(
    vision_service: Service, pictures: Pictures, path: str, said: str
) -> None:
    error = rejection(vision_service, f"{pictures.url}{path}")
    assert (error["param"], error["code"]) == (WHERE, "invalid_image")
    assert said in error["message"]


def test_a_client_that_leaves_ends_the_fetch(vision_service: Service, pictures: Pictures) -> None:
    """And others are answered while it waits."""
    import socket

    data = json.dumps(chat(part(f"{pictures.url}/silent"))).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += "Content-Type: application/json\r\n"
    pictures.arrived.clear()
    with socket.create_connection(("127.0.0.1", vision_service.port), timeout=30) as line:
        line.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        assert pictures.arrived.wait(10)
        assert ask(vision_service, text("Hi"), part(ONE))["usage"]
        assert not pictures.left.is_set()
    assert pictures.left.wait(3)
    assert eventually(lambda: vision_service.status()["requests_in_flight"] == 0)


def test_a_server_that_says_nothing(
    vision_models: Any, vision_service: Service, pictures: Pictures
) -> None:
    error = rejection(vision_service, f"{pictures.url}/silent")
    assert "IMAGE_FETCH_TIMEOUT" in error["message"]


def test_an_engine_that_reads_text_only_says_who_would_see(vision_service: Service) -> None:
    """The model moves to MLX, is asked there, and moves back."""
    moved = {"model_name": "seer", "engine": "mlx"}
    assert vision_service.json("/v1/models/load", moved)["engine"] == "mlx"
    error = rejection(vision_service, ONE, model="seer")
    assert (error["code"], error["param"]) == ("unsupported_content", WHERE)
    assert "mlx" in error["message"] and '"engine": "llama_cpp"' in error["message"]
    assert (
        vision_service.json("/v1/models/load", {**moved, "engine": "auto"})["engine"] == "llama_cpp"
    )
    assert ask(vision_service, part(ONE), model="seer")["usage"]["completion_tokens"] == 4
