"""What Open WebUI, n8n, Dify and Cursor send, as their sources and documents have it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.test_chat import text_of
from tests.service import Service

MODEL = "smollm2-135m"
CHAT = "/v1/chat/completions"
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string", "maxLength": 10}},
            "required": ["word"],
        },
    },
}


def messages_with(text: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def read_stream(service: Service, path: str, body: dict[str, Any], **headers: str) -> bytes:
    status, answered, answer = service.request(path, body, headers=headers)
    assert status == 200, answer
    assert answered["content-type"].startswith("text/event-stream")
    return answer


@pytest.mark.parametrize(
    "host", ["host.docker.internal:8001", "host.containers.internal", "192.168.1.20:8001"]
)
def test_a_program_in_a_container_may_call_it_by_these_names(service: Service, host: str) -> None:
    assert service.request("/v1/models", headers={"Host": host})[0] == 200


def test_a_name_of_the_internet_has_to_be_allowed(service: Service) -> None:
    status, _, answer = service.request(CHAT, {}, headers={"Host": "my.tunnel.example"})
    assert status == 403 and b"ALLOWED_HOSTS=my.tunnel.example" in answer


def test_open_webui(service: Service) -> None:
    known = service.json("/v1/models", headers={"Authorization": "Bearer any"})
    assert known["object"] == "list" and MODEL in {each["id"] for each in known["data"]}
    body = {"model": MODEL, "messages": messages_with("hi"), "stream": True, "max_tokens": 8}
    assert text_of(read_stream(service, CHAT, body, Authorization="Bearer any"))
    # Titles and tags come from plain requests beside the chat.
    title = {**body, "stream": False, "max_completion_tokens": 8}
    del title["max_tokens"]
    assert service.json(CHAT, title)["choices"][0]["message"]["content"]


def test_n8n(service: Service) -> None:
    head = {"Authorization": "Bearer any", "OpenAI-Organization": ""}
    assert service.json("/v1/models", headers=head)["data"]
    # "Use Responses API" is on in new nodes.
    body = {
        "model": MODEL,
        "input": [{"type": "message", "role": "user", "content": "hi"}],
        "max_output_tokens": 16,
        "stream": False,
        "tools": [{"type": "function", **TOOL["function"], "strict": False}],  # type: ignore[dict-item]
    }
    assert service.json("/v1/responses", body, headers=head)["status"] in (
        "completed",
        "incomplete",
    )
    plain = {
        "model": MODEL,
        "messages": messages_with("hi"),
        "max_tokens": 8,
        "n": 1,
        "stream": False,
    }
    plain |= {"temperature": 0.7, "tools": [TOOL], "tool_choice": "auto"}
    assert service.json(CHAT, plain, headers=head)["choices"]
    wrong = service.request(CHAT, {**plain, "model": "gpt-5-mini"}, headers=head)
    assert wrong[0] == 404 and json.loads(wrong[2])["error"]["code"] == "model_not_found"
    search = {**body, "tools": [{"type": "web_search"}]}
    status, headers, _ = service.request("/v1/responses", search, headers=head)
    assert status == 200 and headers["x-ignored-parameters"] == "tools.web_search"


def test_dify(service: Service) -> None:
    # What it asks when a model is saved: an `object` other than this is an error to it.
    ping = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "ping"}]}
    assert service.json(CHAT, ping)["object"] == "chat.completion"
    plain = {"model": MODEL, "max_tokens": 5, "prompt": "ping"}
    assert service.json("/v1/completions", plain)["object"] == "text_completion"
    chat = {
        **ping,
        "messages": messages_with("hi"),
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "top_p": 1.0,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "user": "abc-123",
        "tools": [TOOL],
        "tool_choice": "auto",
    }
    answer = read_stream(service, CHAT, chat)
    # Its delimiter is an empty line.
    assert b"\n\n" in answer and b'"usage":{' in answer
    functions = {**ping, "functions": [TOOL["function"]]}
    response = service.request(CHAT, functions)
    assert response[0] == 400 and b"'functions'" in response[2], "why Tool Call has to be chosen"
    status, headers, _ = service.request(CHAT, {**ping, "enable_thinking": True})
    assert (status, headers["x-ignored-parameters"]) == (200, "enable_thinking")


def test_cursor(service: Service) -> None:
    check = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a test assistant."},
            {"role": "user", "content": "Testing. Just say hi and nothing else."},
        ],
        "max_tokens": 8,
    }
    assert service.json(CHAT, check, headers={"Authorization": "Bearer any"})["choices"]
    more = {"stream": True, "stream_options": {"include_usage": True}, "tools": [TOOL], "user": "x"}
    read_stream(service, CHAT, {**check, **more})
