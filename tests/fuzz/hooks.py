"""What schemathesis is told on top of the description; it loads this module by SCHEMATHESIS_HOOKS.

Requests stay small, most of them name a model that is there, and what a stream holds is checked.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from typing import Any

import jsonschema_rs
import schemathesis

from tests.fuzz.routes import LIMITS, OPTIONS, VECTORS
from tests.fuzz.strict import event_schema

MODEL = os.environ.get("FUZZ_MODEL", "smollm2-135m")
EMBEDDER = os.environ.get("FUZZ_EMBEDDER", MODEL)
TOKENS = 4
OTHER_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# Valid by its schema and yet refused: only for what a schema cannot say.
REFUSALS = {
    "unsupported_parameter",
    "unsupported_content",
    "context_length_exceeded",
    "prefill_memory_exceeded",
    "invalid_value",
    "unsupported_schema",
    "unsupported_model",
    "chat_template_error",
}
# Who comes too early, and who asks for an engine that this machine does not have.
BUSY = {"overloaded", "too_many_connections", "model_unloaded", "model_load_superseded"}
NOT_HERE = {"engine_not_installed", "no_engine_for_model"}

NEEDED = {"model", "messages", "prompt", "input", "query", "documents", "tokens", "max_tokens"}
_REFUSED = re.compile(r"[^']*'([^']+)'")
_UNSUPPORTED = re.compile(r"Unsupported parameter: '([^']+)'")

# The last events of streams.
ENDS = {"message_stop", "response.completed", "response.incomplete"}
# Where nothing to go on from, or no model of the kind, is a missing parameter.
NEEDING = ("/v1/responses", "/v1/responses/input_tokens", *VECTORS)

# Where a kept response is named.
KEPT = "/v1/responses/{name}"

refused: set[str] = set()
kept: list[str] = []
unloads = iter([MODEL] * int(os.environ.get("FUZZ_UNLOADS", "10")))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Keep a request small, and give it a model or a response that is there."""
    if kept and case.operation.path.startswith(KEPT):
        name = str((case.path_parameters or {}).get("name"))
        if _lot(name) < 8:
            case.path_parameters["name"] = kept[-1]
    if case.operation.label == "DELETE /v1/models/{name}":
        # The model of the service under test is also that of this checkout.
        case.path_parameters["name"] = f"{case.path_parameters['name']}-not-here"
    body = case.body
    if not isinstance(body, dict):
        return
    if case.operation.path in ("/v1/models/pull", "/api/pull"):
        _pull_nothing(body)
    if _is_positive(case) and _lot(json.dumps(body, default=str)) < 12:
        # Else hardly any request would get as far as the engine.
        for name in refused & set(body):
            del body[name]
        if case.operation.path in LIMITS and body.get("stream") is None and _lot(str(body)) % 2:
            body["stream"] = True
    limit = LIMITS.get(case.operation.path)
    if limit is not None and body.get(limit) is None:
        body[limit] = TOKENS
    for name in OTHER_LIMITS:
        if _is_whole(value := body.get(name)) and TOKENS < value < 2**31:
            body[name] = TOKENS
    if case.operation.path in OPTIONS:
        _bound_options(body)
    if "keep_alive" in body and next(unloads, None) is None:
        del body["keep_alive"]  # it may unload the model
    needed = ("model",) if _is_positive(case) and case.operation.path in VECTORS else ()
    for name in ("model", "model_name"):
        if type(body.get(name)) is str or (name in needed and body.get(name) is None):
            body[name] = _model(case.operation.path, body.get(name) or "")
    if case.operation.path == "/api/delete":
        for name in ("model", "name"):
            if type(body.get(name)) is str:
                body[name] += "-not-here"


def _pull_nothing(body: dict[str, Any]) -> None:
    """Have a pull ask for what is here already, or for what nobody can mean."""
    if type(body.get("model")) is str:
        body["model"] = MODEL if _lot(body["model"]) < 12 else "?" + body["model"]
    for name in ("name", "format", "force"):
        body.pop(name, None)


def _bound_options(body: dict[str, Any]) -> None:
    options = body.setdefault("options", {})
    if options is None:
        options = body["options"] = {}
    if isinstance(options, dict) and _is_whole(options.get("num_predict", 0)):
        options["num_predict"] = TOKENS


def _model(path: str, given: str) -> str:
    """A model that is there in most requests, but not for long to be unloaded.

    The request after that loads it again, which takes a second.
    """
    if path in VECTORS:
        return EMBEDDER if _lot(given) < 12 else given
    if not path.endswith("/unload"):
        return MODEL if _lot(given) < 12 else given
    wanted = next(unloads, None)
    return given + "?" if wanted is None and given == MODEL else wanted or given


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Learn which fields are refused though they are valid, and which responses are kept."""
    if response.status_code == 200 and case.operation.label == "POST /v1/responses":
        kept.extend(re.findall(r'"id":"(resp_\w+)"', response.text))
    if response.status_code != 400 or not isinstance(case.body, dict):
        return
    named = (_REFUSED if _is_positive(case) else _UNSUPPORTED).match(_message(response.json()))
    if named:
        refused.update({re.split(r"[.\[]", named.group(1))[0]} & set(case.body) - NEEDED)


def _message(body: dict[str, Any]) -> str:
    """The message of an error, in whichever shape."""
    error = body.get("error")
    return str(error.get("message") if isinstance(error, dict) else error)


def _code(body: dict[str, Any]) -> str | None:
    """The code of an error, None in the shapes that have none."""
    error = body.get("error")
    return error.get("code") if isinstance(error, dict) else None


def _is_whole(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


def _lot(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) % 16


def _is_positive(case: Any) -> bool:
    mode = case.meta.generation.mode if case.meta else None
    return bool(mode == schemathesis.GenerationMode.POSITIVE)


@schemathesis.check
def faults_are_not_ours(ctx: Any, response: Any, case: Any) -> None:
    """Allow statuses from 500 on only for what a service has to say by them."""
    if response.status_code < 500 or (case.operation.path, response.status_code) == ("/ready", 503):
        return
    code = _code(response.json())
    if code in BUSY or (code is None and response.status_code in (503, 529)):
        assert response.headers.get("retry-after"), f"{code} without Retry-After"
        return
    names_engine = isinstance(case.body, dict) and case.body.get("engine")
    assert names_engine and code in NOT_HERE, response.json()


@schemathesis.check
def events_are_described(ctx: Any, response: Any, case: Any) -> None:
    """Check each event of a stream, and that it has an end."""
    kind = response.headers.get("content-type", [""])[0]
    if "text/event-stream" not in kind and "x-ndjson" not in kind:
        return
    schema = event_schema(case.operation.schema.raw_schema, case.operation.path, case.method)
    assert schema is not None, "a stream that is not described"
    events = _lines(response.content) if "x-ndjson" in kind else _blocks(response.content)
    check = jsonschema_rs.validator_for(schema)
    for event in events:
        if event != "[DONE]":
            check.validate(json.loads(event))
    assert _is_end(events[-1]), f"a stream that ends with {events[-1][:200]}"


def _blocks(content: bytes) -> list[str]:
    blocks = [block for block in content.decode().split("\n\n") if block[:1] != ":"]
    assert blocks.pop() == "", "a stream that ends in the middle of an event"
    lines = [line for block in blocks for line in block.split("\n")]
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def _lines(content: bytes) -> list[str]:
    lines = content.decode().split("\n")
    assert lines.pop() == "", "a stream that ends in the middle of a line"
    return lines


def _is_end(last: str) -> bool:
    if last == "[DONE]":
        return True
    event = json.loads(last)
    if event.get("status") == "success":  # of a pull that Ollama's API tells of
        return True
    return bool(event.get("done")) or event.get("type") in ENDS


@schemathesis.check
def valid_requests_are_refused_for_a_reason(ctx: Any, response: Any, case: Any) -> None:
    """A request that its schema allows may be refused only for what no schema can say."""
    if response.status_code != 400 or not _is_positive(case):
        return
    body = response.json()
    code = _code(body)
    assert code is None or code in REFUSALS or _needs(case, code), body


def _needs(case: Any, code: str) -> bool:
    """Whether a field is missing that a schema cannot ask for: one of two, or a kept response."""
    return code == "missing_required_parameter" and case.operation.path in NEEDING
