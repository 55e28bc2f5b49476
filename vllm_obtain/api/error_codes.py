"""Every code an error can have: its status, what it means and what to do about it.

The description at /openapi.json, the page at /docs and docs/api.md tell them from here.
"""

from __future__ import annotations

from typing import NamedTuple


class ErrorCode(NamedTuple):
    """One code.

    Args:
        code: the machine-readable name.
        status: the HTTP status that it comes with.
        meaning: what happened.
        action: what to do about it.
    """

    code: str
    status: int
    meaning: str
    action: str


_ALL = (
    ErrorCode("invalid_json", 400, "The body is not JSON.", "Mend the body."),
    ErrorCode(
        "invalid_value",
        400,
        "A field has a value of a wrong type, out of its range, or at odds with another field.",
        "`param` names the field, the message says what is allowed.",
    ),
    ErrorCode(
        "missing_required_parameter",
        400,
        "A field that is needed is not there.",
        "`param` names it.",
    ),
    ErrorCode(
        "unsupported_parameter",
        400,
        "The service, or the engine of this model, cannot do what the field asks for.",
        "Leave out the field that `param` names, or move the model to another engine.",
    ),
    ErrorCode(
        "unsupported_content",
        400,
        "A message holds what this model cannot take, such as an image.",
        "Leave it out, or use a model that can.",
    ),
    ErrorCode(
        "invalid_image",
        400,
        "An image cannot be fetched or read, or is beyond a limit.",
        "The message says which limit and what to do; `param` names the field.",
    ),
    ErrorCode(
        "context_length_exceeded",
        400,
        "The prompt is longer than the model's context.",
        "The message has both numbers: shorten the prompt.",
    ),
    ErrorCode(
        "request_quarantined",
        400,
        "The request has crashed its engine twice, and is not asked again for QUARANTINE_SECONDS.",
        "Change the prompt or the parameters; `DELETE /v1/quarantine` lets it be tried again.",
    ),
    ErrorCode(
        "prefill_memory_exceeded",
        400,
        "The prompt needs more memory than there is.",
        "Shorten the prompt, lower `max_tokens`, or raise MLX_MEMORY_FRACTION.",
    ),
    ErrorCode(
        "unsupported_schema",
        400,
        "No engine can hold an answer to this schema or grammar.",
        "The message says which part is at fault: write it more simply.",
    ),
    ErrorCode(
        "unsupported_model",
        400,
        "The model is of another kind: it makes vectors and was asked for text, or the reverse.",
        "Name another model; `kind` at `GET /v1/models` says which is which.",
    ),
    ErrorCode(
        "chat_template_error",
        400,
        "The model's chat template cannot be used, or refuses this conversation.",
        "The message has the template's own words: change the messages, or set `chat_template`.",
    ),
    ErrorCode(
        "invalid_api_key",
        401,
        "The service needs an API key, and none was sent, or one that is not known or has expired.",
        "Send one as `Authorization: Bearer` or `x-api-key`; `vllm-obtain keys create` makes one.",
    ),
    ErrorCode(
        "missing_scope",
        403,
        "The key is not for this: loading, moving and unloading models, and keys, take `admin`.",
        "Use a key with the scope that the message names.",
    ),
    ErrorCode(
        "keys_needed",
        403,
        "There are no API keys, so only the service's own machine is served.",
        "Make a key with `vllm-obtain keys create`, and send it.",
    ),
    ErrorCode(
        "host_not_allowed",
        403,
        "The client calls this service by a name that is none of its machine's.",
        "If the name is right, add it to ALLOWED_HOSTS.",
    ),
    ErrorCode(
        "origin_not_allowed",
        403,
        "A web page from elsewhere asks, and there are no keys.",
        "If it may, add its origin to CORS_ORIGINS.",
    ),
    ErrorCode(
        "not_found", 404, "There is no such route.", "`/docs` lists the routes that there are."
    ),
    ErrorCode(
        "model_not_found",
        404,
        "There is no model of that name.",
        "The message lists those that there are; so does `GET /v1/models`.",
    ),
    ErrorCode(
        "not_supported",
        404,
        "Other services do something on this path, and this one does not.",
        "The message says what to do instead.",
    ),
    ErrorCode(
        "response_not_found",
        404,
        "The response or item is not kept here, or no longer.",
        "Send the whole conversation as `input`.",
    ),
    ErrorCode(
        "previous_response_not_found",
        404,
        "The response that `previous_response_id` names, or one before it, is not kept here.",
        "Send the whole conversation as `input`.",
    ),
    ErrorCode(
        "source_not_found",
        404,
        "Nobody who was asked has the model to be fetched, or gives it to us.",
        "The message says what each of them said: mend the name, or log in (HF_TOKEN).",
    ),
    ErrorCode(
        "model_not_fetched",
        404,
        "No model of that name was fetched, so nobody knows where it comes from.",
        "`GET /v1/models/updates` lists those that were.",
    ),
    ErrorCode(
        "pull_not_found",
        404,
        "There is no such pull, or it ended more than an hour ago.",
        "`GET /v1/models/pulls` lists them.",
    ),
    ErrorCode(
        "method_not_allowed",
        405,
        "The route answers other methods.",
        "The `Allow` header names them.",
    ),
    ErrorCode(
        "body_timeout",
        408,
        "The body came too slowly (BODY_TIMEOUT).",
        "Send it faster, or send less.",
    ),
    ErrorCode(
        "switch_under_way",
        409,
        "The model is on its way to another engine.",
        "Ask again when it is there.",
    ),
    ErrorCode(
        "model_exists",
        409,
        "Another model has the name under which one is to be fetched.",
        "Give another `name`, or replace a fetched one with `force`.",
    ),
    ErrorCode(
        "model_in_use",
        409,
        "The model to be removed is loaded.",
        "Unload it first.",
    ),
    ErrorCode(
        "model_being_fetched",
        409,
        "Another process fetches or replaces the model.",
        "Try again later.",
    ),
    ErrorCode(
        "no_previous_version",
        409,
        "No version before the present one is kept.",
        "An update keeps one, unless it is told not to or the room is needed.",
    ),
    ErrorCode(
        "model_not_removable",
        409,
        "The model is an adapter, lies behind a link, or holds another one.",
        "The message says which; remove it by hand.",
    ),
    ErrorCode(
        "request_too_large", 413, "The body is larger than MAX_BODY_MB.", "Send less, or raise it."
    ),
    ErrorCode(
        "overloaded",
        429,
        "MAX_CONCURRENT_REQUESTS are running or waiting.",
        "Wait as long as `Retry-After` says.",
    ),
    ErrorCode(
        "rate_limit_exceeded",
        429,
        "The key's requests or tokens per minute are used up.",
        "Wait as long as `Retry-After` says; the `x-ratelimit-*` headers tell what is left.",
    ),
    ErrorCode(
        "internal_error",
        500,
        "A fault of this service.",
        "The log has the details under the id in `x-request-id`.",
    ),
    ErrorCode(
        "engine_failed",
        502,
        "The engine answered with a fault of its own.",
        "Try again; if it lasts, see `errors.log`.",
    ),
    ErrorCode(
        "engine_lost",
        502,
        "The engine died while it answered. It is started again by itself.",
        "Try again; `errors.log` says what happened.",
    ),
    ErrorCode(
        "fetch_failed",
        502,
        "A model could not be fetched, or its files cannot be written or removed.",
        "The message says why. What has arrived is kept: ask again.",
    ),
    ErrorCode(
        "update_not_readable",
        502,
        "What the source has now is no model that can be read; the old version stays.",
        "Tell whoever made it, and pull another one.",
    ),
    ErrorCode(
        "names_broken",
        503,
        "MODELS_DIR/catalogue.toml cannot be used.",
        "The message says where: mend it, or take it away.",
    ),
    ErrorCode(
        "model_load_failed",
        503,
        "The engine could not load the model.",
        "The message ends with the engine's own last lines.",
    ),
    ErrorCode("model_unloaded", 503, "The model was unloaded meanwhile.", "Try again."),
    ErrorCode(
        "model_load_superseded",
        503,
        "The model was moved to another engine meanwhile.",
        "Try again.",
    ),
    ErrorCode(
        "no_place_for_model",
        503,
        "Pinned models hold all places.",
        "Raise MAX_CONCURRENT_MODELS, or unload one of them.",
    ),
    ErrorCode(
        "conversion_failed",
        503,
        "The model's file could not be converted for its engine.",
        "The message says why; often the disk is full.",
    ),
    ErrorCode("model_broken", 503, "The model's files cannot be read.", "Fetch them again."),
    ErrorCode(
        "no_engine_for_model",
        503,
        "No engine here can load this model.",
        "The message says why each one refuses; `vllm-obtain doctor` says more.",
    ),
    ErrorCode(
        "engine_not_installed",
        503,
        "The engine that is asked for is not installed.",
        "The message has the command that installs it.",
    ),
    ErrorCode(
        "too_many_connections",
        503,
        "All WORKER_CONNECTIONS of this worker are in use.",
        "Wait as long as `Retry-After` says; raise WORKER_CONNECTIONS or WORKERS.",
    ),
    ErrorCode(
        "supervisor_unavailable",
        503,
        "The process that owns the engines is starting again.",
        "Try again; if it lasts, see `app.log`.",
    ),
    ErrorCode(
        "draining",
        503,
        "The service is stopping: what runs is finished, nothing new is begun.",
        "Wait as long as `Retry-After` says, for the service that comes next.",
    ),
    ErrorCode(
        "request_timeout",
        504,
        "REQUEST_TIMEOUT passed before the answer was complete.",
        "Ask for fewer tokens, or raise it.",
    ),
    ErrorCode(
        "insufficient_memory",
        507,
        "The model does not fit into the memory that engines may take, or none is left.",
        "The message has the numbers, and what would make it fit.",
    ),
    ErrorCode(
        "insufficient_storage",
        507,
        "The disk has no room for the model to be fetched; nothing was.",
        "Make as much room as the message says, or set MODELS_DIR to another disk.",
    ),
)

CODES = {one.code: one for one in _ALL}

# What routes have in common; ANY and ADMIN come by a route's `access`.
# Every route may fail by a fault of ours; those that machines ask every few seconds are served on
# any connection.
ALWAYS = ("internal_error",)
USUAL = (*ALWAYS, "too_many_connections", "draining")
ANY = ("invalid_api_key", "keys_needed", "host_not_allowed", "origin_not_allowed")
LEAVE = ("missing_scope",)
ADMIN = (*ANY, *LEAVE)
BODY = (
    "invalid_json",
    "invalid_value",
    "missing_required_parameter",
    "unsupported_parameter",
    "body_timeout",
    "request_too_large",
)
SUPERVISOR = ("supervisor_unavailable",)
MODEL = ("model_not_found",)
LOAD = (
    "model_load_failed",
    "model_unloaded",
    "model_load_superseded",
    "conversion_failed",
    "model_broken",
    "no_place_for_model",
    "no_engine_for_model",
    "engine_not_installed",
    "switch_under_way",
    "request_timeout",
    "insufficient_memory",
)
# One for a model to be fetched.
PULL = (
    "source_not_found",
    "model_exists",
    "fetch_failed",
    "names_broken",
    "insufficient_storage",
    "overloaded",
)
# A question about models that were fetched.
LOOK = ("model_not_fetched", "overloaded", "fetch_failed")
# A model that gets other files.
UPDATE = (
    "model_not_fetched",
    "update_not_readable",
    "model_being_fetched",
    *LOAD,
)
ROLLBACK = ("no_previous_version", "fetch_failed", "overloaded")
# A request that an engine works on, of whatever API.
ENGINE = (
    *USUAL,
    *BODY,
    *SUPERVISOR,
    *MODEL,
    *(code for code in LOAD if code != "switch_under_way"),
    "unsupported_model",
    "context_length_exceeded",
    "overloaded",
    "rate_limit_exceeded",
    "engine_failed",
    "engine_lost",
    "request_quarantined",
)
# One that makes a prompt of messages.
CHAT = ("unsupported_content", "invalid_image", "chat_template_error")
# One for text.
GENERATE = (*ENGINE, *CHAT, "unsupported_schema", "prefill_memory_exceeded")
# One that speaks of responses that are kept.
KEPT = (*USUAL, *SUPERVISOR, "response_not_found")
