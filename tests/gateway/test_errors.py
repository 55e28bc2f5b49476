"""Every error a client can cause: status, code, param, and OpenAI's shape, always."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.models.gguf_files import write_gguf
from tests.profiles import Fakes
from tests.service import Service
from tests.waiting import eventually

HI = [{"role": "user", "content": "hi"}]


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": HI, "max_tokens": 20, **more}


# The fake engine gives back the words it was sent, one a token.
WORDS = [{"role": "user", "content": "one two three four five six"}]


def chat_fields(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def tool(parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters, **more}}


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


TOOL = tool({"type": "object"})
CHOSEN = {"type": "function", "function": {"name": "g"}}

CHAT = [
    (b"", "invalid_json", None),
    (b"{", "invalid_json", None),
    (b'{"messages": [{"role": "user", "content": "\xff"}]}', "invalid_json", None),
    (b'{"messages": ' + b"[" * 100_000, "invalid_value", "messages[0]"),
    (b'{"tools": ' + b"[" * 100_000, "invalid_value", "tools[0]"),
    (b'{"response_format": ' + b'{"a":' * 100_000, "invalid_json", None),
    (b"[]", "invalid_value", None),
    ({}, "missing_required_parameter", "messages"),
    ({"messages": []}, "invalid_value", "messages"),
    ({"messages": "hi"}, "invalid_value", "messages"),
    ({"messages": [{"content": "hi"}]}, "missing_required_parameter", "messages[0].role"),
    ({"messages": [{"role": 123, "content": "x"}]}, "invalid_value", "messages[0].role"),
    ({"messages": [{"role": "bob", "content": "x"}]}, "invalid_value", "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "invalid_value", "messages[0].content"),
    (chat_fields(7), "invalid_value", "messages[0].content"),
    (chat_fields([]), "invalid_value", "messages[0].content"),
    (chat_fields([{"type": "video"}]), "invalid_value", "messages[0].content[0].type"),
    (
        chat_fields([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]),
        "unsupported_content",
        "messages[0].content[0].image_url",
    ),
    (chat(model=7), "invalid_value", "model"),
    (chat(max_tokens=1.5), "invalid_value", "max_tokens"),
    (chat(max_tokens=0), "invalid_value", "max_tokens"),
    (chat(max_tokens=-1), "invalid_value", "max_tokens"),
    (chat(max_completion_tokens="many"), "invalid_value", "max_completion_tokens"),
    (chat(temperature=-1), "invalid_value", "temperature"),
    (chat(temperature=2.1), "invalid_value", "temperature"),
    (chat(temperature="hot"), "invalid_value", "temperature"),
    (chat(top_p=1.1), "invalid_value", "top_p"),
    (chat(presence_penalty=3), "invalid_value", "presence_penalty"),
    (chat(frequency_penalty=-3), "invalid_value", "frequency_penalty"),
    (chat(stop=7), "invalid_value", "stop"),
    (chat(stop=["a", 7]), "invalid_value", "stop[1]"),
    (chat(stop=""), "invalid_value", "stop"),
    (chat(seed="x"), "invalid_value", "seed"),
    (chat(seed=10**30), "invalid_value", "seed"),
    (chat(logit_bias={"a": 1}), "invalid_value", "logit_bias"),
    (chat(logit_bias={"1": 101}), "invalid_value", "logit_bias[...]"),
    (chat(top_logprobs=2), "invalid_value", "top_logprobs"),
    (chat(logprobs=True, top_logprobs=21), "invalid_value", "top_logprobs"),
    (chat(stream="yes"), "invalid_value", "stream"),
    (chat(stream_options={"include_usage": True}), "invalid_value", "stream_options"),
    (
        chat(stream=True, stream_options={"include_obfuscation": True}),
        "unsupported_parameter",
        "stream_options.include_obfuscation",
    ),
    (chat(n=0), "invalid_value", "n"),
    (chat(reasoning_effort="huge"), "invalid_value", "reasoning_effort"),
    (chat(n=129), "invalid_value", "n"),
    (chat(tools=[{"type": "function"}]), "missing_required_parameter", "tools[0].function"),
    (chat(tools=[{"type": "custom"}]), "invalid_value", "tools[0].type"),
    (chat(tools=[TOOL, TOOL]), "invalid_value", "tools"),
    (chat(tools=[tool({"not": {"const": 1}}, strict=True)]), "unsupported_schema", "tools"),
    (chat(tool_choice="required"), "invalid_value", "tool_choice"),
    (chat(tools=[TOOL], tool_choice=CHOSEN), "invalid_value", "tool_choice"),
    (chat(response_format={"type": "xml"}), "invalid_value", "response_format.type"),
    (
        chat(response_format=response_format({"uniqueItems": True})),
        "unsupported_schema",
        "response_format",
    ),
    (
        chat(response_format=response_format({"$ref": "#/no"})),
        "unsupported_schema",
        "response_format",
    ),
    (
        chat(response_format=response_format({"enum": ["x" * 100] * 6000})),
        "invalid_value",
        "response_format",
    ),
    (chat(guided_regex="(?=a)"), "unsupported_schema", "guided_regex"),
    (chat(guided_json={"minItems": 10**9}), "unsupported_schema", "guided_json"),
    (chat(guided_regex="(a{1,1000}){1,1000}"), "unsupported_schema", "guided_regex"),
    (chat(guided_grammar='root ::= "a"{1,99999}'), "unsupported_schema", "guided_grammar"),
    (chat(guided_json="{"), "invalid_value", "guided_json"),
    (chat(guided_grammar="root ::= nothing"), "invalid_value", "guided_grammar"),
    (chat(guided_regex="a", guided_choice=["b"]), "invalid_value", "guided_choice"),
    (chat(structured_outputs={"grammar": "what?"}), "invalid_value", "structured_outputs.grammar"),
    (chat(chat_template_kwargs={"tools": 1}), "invalid_value", "chat_template_kwargs.tools"),
    (chat(continue_final_message=True), "invalid_value", "continue_final_message"),
    (chat(min_tokens=3), "unsupported_parameter", "min_tokens"),
    (chat(functions=[{"name": "f"}]), "unsupported_parameter", "functions"),
]

TEXT = [
    ({}, "missing_required_parameter", "prompt"),
    ({"prompt": []}, "invalid_value", "prompt"),
    ({"prompt": ["a", "b"]}, "invalid_value", "prompt"),
    ({"prompt": [1, "b"]}, "invalid_value", "prompt"),
    ({"prompt": [-1]}, "invalid_value", "prompt[0]"),
    ({"prompt": "x", "echo": True, "logprobs": 1}, "unsupported_parameter", "echo"),
    ({"prompt": "x", "suffix": "y"}, "unsupported_parameter", "suffix"),
    ({"prompt": "x", "best_of": 2}, "unsupported_parameter", "best_of"),
    ({"prompt": "x", "logprobs": 6}, "invalid_value", "logprobs"),
]

MODELS = [
    ("/v1/models/load", {}, "missing_required_parameter", "model_name"),
    ("/v1/models/load", {"model_name": 7}, "invalid_value", "model_name"),
    ("/v1/models/load", {"model_name": "x", "force": 1}, "unsupported_parameter", "force"),
    ("/v1/models/unload", {}, "missing_required_parameter", "model_name"),
]

CASES = [
    *(("/v1/chat/completions", *case) for case in CHAT),
    *(("/v1/completions", *case) for case in TEXT),
    *MODELS,
]


def error_of(body: bytes) -> dict[str, Any]:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and isinstance(error["message"], str)
    return dict(error)


@pytest.mark.parametrize(("path", "body", "code", "param"), CASES)
def test_bad_input_is_a_400_that_names_it(
    path: str, body: Any, code: str, param: str | None, service: Service
) -> None:
    status, headers, answer = service.request(path, body)
    error = error_of(answer)
    assert (status, error["code"], error["param"]) == (400, code, param), error
    assert error["type"] == "invalid_request_error"
    assert headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat(model="gpt-9")),
        ("/v1/chat/completions", chat(model="../secret")),
        ("/v1/chat/completions", chat(model="a\0b")),
        ("/v1/completions", {"model": "gpt-9", "prompt": "x"}),
        ("/v1/models/load", {"model_name": "gpt-9"}),
        ("/v1/models/unload", {"model_name": "gpt-9"}),
        ("/v1/models/gpt-9", None),
    ],
)
def test_an_unknown_model_is_404_and_says_which_there_are(
    path: str, body: Any, service: Service
) -> None:
    status, _, answer = service.request(path, body)
    error = error_of(answer)
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "smollm2-135m" in error["message"]


def test_a_prompt_longer_than_the_context_gets_both_numbers(service: Service) -> None:
    words = " ".join(["word"] * 9000)
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": words}]}),
        ("/v1/completions", {"prompt": words, "stream": True}),
    ):
        status, _, answer = service.request(path, body)
        error = error_of(answer)
        assert (status, error["code"]) == (400, "context_length_exceeded"), error
        assert "8192" in error["message"] and "90" in error["message"]
        assert error["param"] == ("messages" if "messages" in body else "prompt")


def test_routes_that_are_not_there(service: Service) -> None:
    status, _, answer = service.request("/v1/nothing")
    assert (status, error_of(answer)["code"]) == (404, "not_found")
    status, headers, answer = service.request("/v1/chat/completions")
    assert (status, error_of(answer)["code"]) == (405, "method_not_allowed")
    assert headers["allow"] == "POST"


def test_a_body_that_is_too_large_is_413(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as line:
        size = 65 * 1024 * 1024
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size
        )
        # The answer comes without a byte of the body.
        response = http.client.HTTPResponse(line, method="POST")
        response.begin()
        assert response.status == 413
        assert error_of(response.read())["code"] == "request_too_large"


def test_the_sdk_raises_its_own_exceptions(service: Service) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(
                model="gpt-9", messages=[{"role": "user", "content": "x"}]
            )
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(
                model="smollm2-135m", messages=[{"role": "user", "content": "x"}], n=129
            )
        assert bad.value.param == "n"


@pytest.fixture(scope="module")
def faulty_models(impatient: Fakes) -> Fakes:
    """Models with faults that a real one does not have on demand."""
    impatient.add("dying", exit_at_start=7, print_at_start=["no such tensor: blk.0"])
    impatient.add("breaking", crash_after_tokens=3)
    impatient.add("hanging", hang_before_first_byte=impatient.folder / "never")
    impatient.add("garbled", garbage_chunk=True)
    return impatient


def test_a_load_that_fails_says_the_engines_last_words(faulty_models: Service) -> None:
    for path, body in (
        ("/v1/models/load", {"model_name": "dying"}),
        ("/v1/chat/completions", chat(model="dying")),
    ):
        status, headers, answer = faulty_models.request(path, body)
        error = error_of(answer)
        assert (status, error["code"]) == (503, "model_load_failed")
        assert "no such tensor: blk.0" in error["message"] and "status 7" in error["message"]
        assert headers["x-should-retry"] == "false"


def test_an_engine_that_dies_in_mid_stream_ends_the_stream_with_an_error(
    faulty_models: Service,
) -> None:
    status, _, answer = faulty_models.request(
        "/v1/chat/completions", chat(model="breaking", messages=WORDS, stream=True)
    )
    assert status == 200
    *_, last, end = answer.split(b"\n\n")
    assert end == b"" and b"[DONE]" not in answer
    assert error_of(last.removeprefix(b"data: "))["code"] == "engine_lost"
    status, _, answer = faulty_models.request(
        "/v1/chat/completions", chat(model="breaking", messages=WORDS)
    )
    # Nothing of a plain answer has gone out: it is asked again, and found to be the cause.
    assert (status, error_of(answer)["code"]) == (400, "request_quarantined")


def test_a_chunk_that_cannot_be_read_is_a_502(faulty_models: Service) -> None:
    status, _, answer = faulty_models.request("/v1/chat/completions", chat(model="garbled"))
    assert (status, error_of(answer)["code"]) == (502, "engine_failed")


def test_a_request_that_takes_too_long_is_a_504_and_health_answers(faulty_models: Service) -> None:
    status, headers, answer = faulty_models.request("/v1/chat/completions", chat(model="hanging"))
    assert (status, error_of(answer)["code"]) == (504, "request_timeout")
    assert headers["x-should-retry"] == "false"
    assert faulty_models.request("/health", timeout=1)[0] == 200


def test_too_many_requests_get_429_with_a_time_to_come_back(faulty_models: Service) -> None:
    lines = [_ask(faulty_models, chat(model="hanging", max_tokens=50)) for _ in range(3)]
    try:
        eventually(lambda: faulty_models.status()["requests_in_flight"] == 3)
        status, headers, answer = faulty_models.request("/v1/chat/completions", chat(model="fine"))
        assert (status, error_of(answer)["code"]) == (429, "overloaded")
        assert error_of(answer)["type"] == "rate_limit_error"
        assert 1 <= int(headers["retry-after"]) <= 120
    finally:
        for line in lines:
            line.close()
    eventually(lambda: faulty_models.status()["requests_in_flight"] == 0)


@pytest.mark.slow
def test_a_fault_of_ours_is_a_500_with_the_request_id_and_nothing_else(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    write_gguf(models / "fine.gguf")
    env = {
        "MODELS_DIR": str(models),
        "INFERENCE_ENGINE": "boom",
        "EXTRA_ENGINES": "boom=tests.gateway.boom:Boom",
    }
    with Service(["run.py", "--no-fetch"], tmp_path, env) as service:
        body = {"messages": [{"role": "user", "content": "a secret of the client"}]}
        status, _, answer = service.request(
            "/v1/chat/completions", body, headers={"X-Request-Id": "mine-1"}
        )
        error = error_of(answer)
        assert (status, error["code"], error["type"]) == (500, "internal_error", "server_error")
        assert "mine-1" in error["message"] and "hidden detail" not in error["message"]
        (line,) = eventually(lambda: service.logged("errors.log"))
        assert line["request_id"] == "mine-1" and "hidden detail" in json.dumps(line)
        everything = "".join(p.read_text() for p in (tmp_path / "logs").glob("*.log"))
        assert "a secret of the client" not in everything


def _ask(service: Service, body: Any) -> socket.socket:
    data = json.dumps(body).encode()
    line = socket.create_connection(("127.0.0.1", service.port))
    line.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    )
    return line
