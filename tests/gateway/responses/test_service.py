"""The Responses API through the whole service, driven by the official SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import openai
import psutil
import pydantic
import pytest

from tests.gateway.test_chat import MODEL, echo
from tests.profiles import Fakes
from tests.service import Service
from tests.waiting import eventually, wait_for_exit

PATH = "/v1/responses"
NUMBER = {"model": MODEL, "temperature": 0, "max_output_tokens": 12}


def few_shot_messages(number: int) -> list[Any]:
    """Messages to which even a very small model answers with its own number."""
    return echo(number)


def test_a_plain_response(client: openai.OpenAI) -> None:
    response = client.responses.create(input=few_shot_messages(58), **NUMBER)
    assert response.output_text.strip().startswith("58")
    assert (
        response.id.startswith("resp_")
        and response.object == "response"
        and response.model == MODEL
    )
    assert response.status == "completed" and response.error is None
    assert response.usage is not None and response.usage.input_tokens > 10
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_streamed_response_is_the_plain_one(client: openai.OpenAI) -> None:
    plain = client.responses.create(input=few_shot_messages(58), **NUMBER)
    with client.responses.stream(input=few_shot_messages(58), **NUMBER) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == final.output_text == plain.output_text
    assert final.usage is not None and plain.usage is not None
    assert final.usage.output_tokens == plain.usage.output_tokens
    assert client.responses.retrieve(final.id).output_text == text


def test_an_answer_cut_off_says_so(client: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": MODEL, "max_output_tokens": 3, "store": False}
    cut = client.responses.create(input="Tell me a long story.", **body)
    assert cut.status == "incomplete" and cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    events = list(client.responses.create(input="Tell me a story.", stream=True, **body))
    assert events[-1].type == "response.incomplete"


def test_log_probabilities(client: openai.OpenAI) -> None:
    response = client.responses.create(
        input=few_shot_messages(17),
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        **NUMBER,
    )
    (item,) = response.output
    assert item.type == "message" and item.content[0].type == "output_text"
    logprobs = item.content[0].logprobs
    assert logprobs and "".join(entry.token for entry in logprobs) == response.output_text
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in logprobs)


def test_a_response_goes_on_from_the_one_before(client: openai.OpenAI) -> None:
    whole = few_shot_messages(63)
    first = client.responses.create(input=whole, **NUMBER)
    second = client.responses.create(
        input="The number is 29.", previous_response_id=first.id, **NUMBER
    )
    third = client.responses.create(
        input="The number is 42.", previous_response_id=second.id, **NUMBER
    )
    said: list[Any] = [
        *whole,
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "The number is 29."},
        {"role": "assistant", "content": second.output_text},
        {"role": "user", "content": "The number is 42."},
    ]
    chat = client.chat.completions.create(model=MODEL, messages=said, temperature=0, max_tokens=12)
    assert third.output_text == chat.choices[0].message.content
    assert third.usage is not None and chat.usage is not None
    assert third.usage.input_tokens == chat.usage.prompt_tokens, "the very same prompt"
    assert third.previous_response_id == second.id

    items = client.responses.input_items.list(third.id, order="asc", limit=100).data
    texts = [item.content[0].text for item in items]  # type: ignore[union-attr]
    assert texts == [message["content"] for message in said]
    again = client.responses.create(
        input=[{"type": "item_reference", "id": items[-1].id or ""}],
        model=MODEL,
        max_output_tokens=1,
    )
    (referred,) = client.responses.input_items.list(again.id).data
    assert referred == items[-1]


def test_instructions_hold_for_one_response_only(client: openai.OpenAI) -> None:
    response = client.responses.create(
        input="Hi.", instructions="Be very kind to everybody.", **NUMBER
    )
    after = client.responses.create(input="Hi.", previous_response_id=response.id, **NUMBER)
    assert response.instructions == "Be very kind to everybody." and after.instructions is None
    chat = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": response.output_text},
            {"role": "user", "content": "Hi."},
        ],
        max_tokens=1,
    )
    assert after.usage is not None and chat.usage is not None
    assert after.usage.input_tokens == chat.usage.prompt_tokens


def test_what_a_response_gave_can_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    first = client.responses.create(input=few_shot_messages(17), store=False, **NUMBER)
    again: list[Any] = [
        *few_shot_messages(17),
        *first.output,
        {"role": "user", "content": "The number is 8."},
    ]
    second = client.responses.create(input=again, **NUMBER)
    as_data = [item.model_dump() for item in first.output]
    again[len(few_shot_messages(17)) : -1] = as_data
    assert client.responses.create(input=again, **NUMBER).output_text == second.output_text


def test_pages_of_input_items(client: openai.OpenAI) -> None:
    response = client.responses.create(input=few_shot_messages(42), **NUMBER)
    items = list(client.responses.input_items.list(response.id, limit=4))
    assert len(items) == len(few_shot_messages(42)), "the library asks for the next pages by itself"
    page = client.responses.input_items.list(response.id, limit=4)
    assert page.has_more and [item.id for item in page.data] == [item.id for item in items[:4]]
    assert items[0].content[0].text == "The number is 42."  # type: ignore[union-attr]
    for query, param in ({"limit": 101}, "limit"), ({"order": "up"}, "order"), ({"x": 1}, "x"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.input_items.list(response.id, extra_query=query)
        assert caught.value.param == param
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.input_items.list(response.id, after="msg_0")
    assert missing.value.param == "after"


def test_a_response_is_found_until_it_is_deleted(client: openai.OpenAI, service: Service) -> None:
    response = client.responses.create(input="Say hi.", metadata={"a": "b"}, **NUMBER)
    found = client.responses.retrieve(response.id)
    assert found.to_dict() == response.to_dict()
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(response.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.retrieve(response.id, extra_query={"stream": "true"})
    assert caught.value.param == "stream" and caught.value.code == "unsupported_parameter"
    client.responses.delete(response.id)
    for gone in (
        lambda: client.responses.retrieve(response.id),
        lambda: client.responses.delete(response.id),
        lambda: client.responses.cancel(response.id),
        lambda: client.responses.input_items.list(response.id),
    ):
        with pytest.raises(openai.NotFoundError, match="RESPONSES_STORE_MB") as missing:
            gone()
        assert missing.value.code == "response_not_found"
    with pytest.raises(openai.NotFoundError, match=response.id) as previous:
        client.responses.create(input="x", previous_response_id=response.id)
    assert previous.value.param == "previous_response_id"
    assert previous.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError) as reference:
        client.responses.create(
            input=[{"type": "item_reference", "id": response.output[0].id or ""}]
        )
    assert reference.value.param == "input[0].id"


def test_the_end_of_one_response_is_the_end_of_those_that_went_on_from_it(
    client: openai.OpenAI,
) -> None:
    first = client.responses.create(input="Say hi.", **NUMBER)
    second = client.responses.create(input="Again.", previous_response_id=first.id, **NUMBER)
    client.responses.delete(first.id)
    assert client.responses.retrieve(second.id).id == second.id
    with pytest.raises(openai.NotFoundError, match=f"'{first.id}', which '{second.id}' continues"):
        client.responses.create(input="Again.", previous_response_id=second.id)


def test_a_response_that_is_not_stored_is_not_found(client: openai.OpenAI) -> None:
    response = client.responses.create(input="Say hi.", store=False, **NUMBER)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_one_keys_responses_are_not_anothers(client: openai.OpenAI) -> None:
    response = client.responses.create(input="Say hi.", **NUMBER)
    other = client.with_options(api_key="yours")
    for spy in (
        lambda: other.responses.retrieve(response.id),
        lambda: other.responses.delete(response.id),
        lambda: other.responses.create(input="x", previous_response_id=response.id),
    ):
        with pytest.raises(openai.NotFoundError):
            spy()
    assert client.responses.retrieve(response.id).id == response.id


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"input": "x", "seed": 3}, "seed"),
        ({}, "input"),
        (
            {"input": "x", "stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"input": "x", "stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"input": "long " * 20_000}, "input"),
        ({"input": "x", "model": "nobody"}, "model"),
    ],
)
def test_refusals_have_openais_shape(fields: dict[str, Any], param: str, service: Service) -> None:
    status, _, raw = service.request(PATH, fields)
    assert status in (400, 404)
    error = json.loads(raw)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param and error["type"] == "invalid_request_error"


def test_the_stream_on_the_wire(service: Service) -> None:
    _, headers, raw = service.request(PATH, {"input": "Say hi.", "stream": True, **NUMBER})
    assert headers["content-type"].startswith("text/event-stream")
    assert raw.startswith(b'event: response.created\ndata: {"type":"response.created"')
    assert b"[DONE]" not in raw


def test_a_stream_whose_engine_dies_ends_as_failed(fakes: Fakes) -> None:
    fakes.add("dying", crash_after_tokens=3)
    with openai.OpenAI(base_url=f"{fakes.url}/v1", api_key="mine", max_retries=0) as client:
        body: dict[str, Any] = {"model": "dying", "input": "one two three four five six"}
        *_, item, last = client.responses.create(**body, stream=True)
        assert item.type == "response.output_item.done" and item.item.type == "message"
        assert item.item.status == "incomplete"
        assert last.type == "response.failed" and last.response.error is not None
        assert last.response.error.code == "server_error" and last.response.error.message
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(last.response.id)
        with pytest.raises(openai.BadRequestError) as plain:  # asked again, it does so again
            client.responses.create(**body)
        assert plain.value.code == "request_quarantined"


@pytest.fixture
def small_service(model_here: None, tmp_path: Path) -> Iterator[Service]:
    """Two workers, and room for a few responses."""
    env = {"WORKERS": "2", "RESPONSES_STORE_MB": "1"}
    with Service(["run.py", "--no-fetch"], tmp_path, env) as service:
        yield service


def test_responses_outlive_workers_and_make_room_for_newer_ones(small_service: Service) -> None:
    with openai.OpenAI(base_url=f"{small_service.url}/v1", api_key="mine", max_retries=2) as client:
        first = client.responses.create(input=few_shot_messages(63), **NUMBER)
        old = psutil.Process(small_service.pid).children()
        assert len(old) == 2
        for worker in old:
            worker.terminate()
        assert not wait_for_exit(old, 20)
        eventually(lambda: len(psutil.Process(small_service.pid).children()) == 2)
        for _ in range(4):  # whichever worker it is
            assert client.responses.retrieve(first.id).output_text == first.output_text

        large = {"type": "output_text", "text": "Hi.", "annotations": ["x" * 300_000]}
        talk: list[Any] = [
            {"role": "assistant", "content": [large]},
            {"role": "user", "content": "Say hi."},
        ]
        stored = [client.responses.create(input=talk, **NUMBER) for _ in range(4)]
        assert [made.to_dict()["store"] for made in stored] == [True] * 4
        for name in (first.id, stored[0].id):
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(name)
        assert client.responses.retrieve(stored[-1].id).id == stored[-1].id

        talk[0]["content"] = [{**large, "annotations": ["x" * 1_100_000]}]
        assert client.responses.create(input=talk, **NUMBER).to_dict()["store"] is False
    eventually(lambda: any("response not stored" in line for line in small_service.lines))


def test_a_tool_is_called_and_its_answer_read(client: openai.OpenAI) -> None:
    city = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}}
    schema = {**city, "required": ["city"], "additionalProperties": False}
    weather = {"type": "function", "name": "get_weather", "parameters": schema, "strict": True}
    more: Any = {"tools": [weather], "temperature": 0}
    asked = client.responses.create(
        model=MODEL, input="How is the weather in Rome?", tool_choice="required", **more
    )
    (call,) = asked.output
    assert call.type == "function_call" and call.name == "get_weather"
    assert list(json.loads(call.arguments)) == ["city"]
    with client.responses.stream(
        model=MODEL, input="How is the weather in Rome?", tool_choice="required", **more
    ) as stream:
        (streamed,) = stream.get_final_response().output
    assert streamed.type == "function_call" and streamed.arguments == call.arguments
    told = {"type": "function_call_output", "call_id": call.call_id, "output": "31 degrees"}
    answer = client.responses.create(
        model=MODEL,
        input=[told],
        previous_response_id=asked.id,
        tool_choice="none",
        max_output_tokens=30,
        **more,
    )
    assert answer.output_text


def test_built_in_tools_are_dropped_and_named(service: Service) -> None:
    tools = [{"type": "web_search", "external_web_access": True}, {"type": "mcp"}]
    body = {"input": "x", "tools": tools, "client_metadata": {"a": "b"}, **NUMBER}
    status, headers, raw = service.request(PATH, body)
    assert status == 200, raw
    assert headers["x-ignored-parameters"] == "tools.web_search, tools.mcp"
    assert json.loads(raw)["tools"] == []


def test_a_function_of_a_namespace_is_called(client: openai.OpenAI) -> None:
    close: Any = {"type": "function", "name": "close", "parameters": {"type": "object"}}
    agents: Any = {"type": "namespace", "name": "agents", "description": "d", "tools": [close]}
    more: Any = {"model": MODEL, "tools": [agents], "max_output_tokens": 60, "temperature": 0}
    choice: Any = {"type": "function", "name": "close"}
    response = client.responses.create(input="Close it.", tool_choice=choice, **more)
    (call,) = response.output
    assert call.type == "function_call"
    assert (call.name, call.namespace) == ("close", "agents")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "closed"}
    items: Any = [{"role": "user", "content": "Close it."}, call.to_dict(), result]
    assert client.responses.create(input=items, tool_choice="none", **more).output_text


def test_input_tokens_are_those_of_the_prompt(client: openai.OpenAI) -> None:
    body: Any = {"model": MODEL, "input": "How many?", "instructions": "Count."}
    counted = client.responses.input_tokens.count(**body)
    assert counted.object == "response.input_tokens"
    usage = client.responses.create(**body, max_output_tokens=1).usage
    assert usage is not None and counted.input_tokens == usage.input_tokens


def test_compaction_is_not_supported(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="summary") as raised:
        client.responses.compact(model=MODEL, input="x")
    assert raised.value.code == "not_supported"


def test_an_answer_keeps_to_a_schema(client: openai.OpenAI) -> None:
    class Town(pydantic.BaseModel):
        name: Annotated[str, pydantic.Field(max_length=12)]
        large: bool

    answer = client.responses.parse(model=MODEL, input="A town", text_format=Town, temperature=0)
    assert isinstance(answer.output_parsed, Town)
