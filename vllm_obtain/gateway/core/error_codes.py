"""Every error code with its HTTP status, its meaning and what a client can do about it.

`/openapi.json`, `/docs` and docs/reference/errors.md are generated from this table.
"""

from __future__ import annotations

from typing import NamedTuple


class ErrorCode(NamedTuple):
    """One error code.

    Args:
        code: machine-readable name, stable between releases.
        status: HTTP status of responses with this code.
        meaning: what happened.
        action: what to do about it.
    """

    code: str
    status: int
    meaning: str
    action: str


_TEXTS: dict[str, tuple[int, str, str]] = {
    "invalid_json": (400, "The body is not valid JSON.", "Fix the JSON."),
    "invalid_value": (
        400,
        "A field has the wrong type, is out of range, or conflicts with another field.",
        "`param` names the field; the message states the allowed values.",
    ),
    "missing_required_parameter": (
        400,
        "A required field is missing.",
        "Add the field that `param` names.",
    ),
    "unsupported_parameter": (
        400,
        "The service, or the engine of this model, does not support the field.",
        "Remove the field that `param` names, or switch the model to another engine.",
    ),
    "unsupported_content": (
        400,
        "A message contains content that this model does not accept, such as an image.",
        "Remove the content, or use a model that accepts it.",
    ),
    "invalid_image": (
        400,
        "An image could not be downloaded or decoded, or exceeds a limit.",
        "The message states the limit; `param` names the field.",
    ),
    "context_length_exceeded": (
        400,
        "The prompt is longer than the model's context length.",
        "Shorten the prompt; the message states both lengths.",
    ),
    "request_quarantined": (
        400,
        "The request crashed or stalled its engine, or exceeded the engine's memory limit, twice "
        "or more. It is refused for QUARANTINE_SECONDS.",
        "Change the prompt or the parameters, or clear the quarantine with "
        "`DELETE /v1/quarantine`.",
    ),
    "prefill_memory_exceeded": (
        400,
        "Processing the prompt needs more memory than is available.",
        "Shorten the prompt, lower `max_tokens`, or raise MLX_MEMORY_FRACTION.",
    ),
    "unsupported_schema": (
        400,
        "The schema, regular expression or grammar cannot be enforced.",
        "The message names the unsupported part; simplify it.",
    ),
    "unsupported_model": (
        400,
        "The model is of the wrong kind: an embedding model in a generation request, or the "
        "reverse.",
        "Use another model; `GET /v1/models` shows the `kind` of each.",
    ),
    "chat_template_error": (
        400,
        "The model's chat template is unusable, rejected the messages, or needs too much time or "
        "memory.",
        "The message quotes the template's error: change the messages, or set `chat_template`.",
    ),
    "invalid_api_key": (
        401,
        "The service requires an API key, and the request has none, or one that is unknown or "
        "expired.",
        "Send a key as `Authorization: Bearer` or `x-api-key`. Create one with "
        "`vllm-obtain keys create`.",
    ),
    "missing_scope": (
        403,
        "The API key lacks the scope that the route requires. Managing models and keys requires "
        "`admin`.",
        "Use a key with the scope that the message names.",
    ),
    "keys_needed": (
        403,
        "No API keys are configured, so only clients on the same machine are served.",
        "Create a key with `vllm-obtain keys create`, and send it.",
    ),
    "host_not_allowed": (
        403,
        "The `Host` header is not an address of this machine.",
        "If clients use this name, add it to ALLOWED_HOSTS.",
    ),
    "origin_not_allowed": (
        403,
        "The request comes from a web page of another origin, and no API keys are configured.",
        "To allow the page, add its origin to CORS_ORIGINS.",
    ),
    "not_found": (404, "The route does not exist.", "See `/docs` for the routes."),
    "model_not_found": (
        404,
        "The model does not exist.",
        "Use one of the models that the message or `GET /v1/models` lists.",
    ),
    "not_supported": (
        404,
        "This API route is not supported by this service.",
        "The message names an alternative.",
    ),
    "response_not_found": (
        404,
        "The response or item is not stored, or no longer.",
        "Send the whole conversation as `input`.",
    ),
    "previous_response_not_found": (
        404,
        "The response named by `previous_response_id`, or one before it, is not stored.",
        "Send the whole conversation as `input`.",
    ),
    "source_not_found": (
        404,
        "The model was not found at any source, or access was denied.",
        "The message contains the reply of each source: correct the name, or log in (HF_TOKEN).",
    ),
    "model_not_fetched": (
        404,
        "The model was not downloaded by this service, so its source is unknown.",
        "`GET /v1/models/updates` lists downloaded models.",
    ),
    "pull_not_found": (
        404,
        "The download does not exist, or ended more than an hour ago.",
        "`GET /v1/models/pulls` lists downloads.",
    ),
    "method_not_allowed": (
        405,
        "The route does not support this method.",
        "Use a method from the `Allow` header.",
    ),
    "body_timeout": (
        408,
        "The body did not arrive within BODY_TIMEOUT.",
        "Send the body faster, or send a smaller one.",
    ),
    "switch_under_way": (
        409,
        "The model is being switched to another engine.",
        "Try again when the switch is complete.",
    ),
    "model_exists": (
        409,
        "Another model already has this name.",
        "Choose another `name`, or replace a downloaded model with `force`.",
    ),
    "model_in_use": (
        409,
        "The model is loaded and cannot be removed.",
        "Unload it first.",
    ),
    "model_being_fetched": (
        409,
        "Another process is downloading or replacing the model.",
        "Try again later.",
    ),
    "no_previous_version": (
        409,
        "No previous version of the model is stored.",
        "An update stores one version, unless `keep` is false or disk space runs low.",
    ),
    "model_not_removable": (
        409,
        "The model is a LoRA adapter, is behind a symbolic link, or contains another model.",
        "The message states the reason; remove the files by hand.",
    ),
    "request_too_large": (
        413,
        "The body is larger than MAX_BODY_MB.",
        "Send a smaller body, or raise MAX_BODY_MB.",
    ),
    "overloaded": (
        429,
        "A limit of running and queued requests is reached (MAX_CONCURRENT_REQUESTS, "
        "MAX_QUEUED_REQUESTS, or a limit of the model), too many downloads or checks of models are "
        "running, or the machine is too busy to prepare the request.",
        "Try again after `Retry-After` seconds.",
    ),
    "rate_limit_exceeded": (
        429,
        "The API key's requests or tokens per minute are used up.",
        "Try again after `Retry-After` seconds; the `x-ratelimit-*` headers show the quota.",
    ),
    "internal_error": (
        500,
        "The service has an internal error.",
        "Look up the id from `x-request-id` in `errors.log`.",
    ),
    "engine_failed": (
        502,
        "The engine responded with an error.",
        "Try again. If the error persists, see `errors.log`.",
    ),
    "engine_lost": (
        502,
        "The engine crashed during the request. It restarts automatically.",
        "Try again. `errors.log` has the cause.",
    ),
    "fetch_failed": (
        502,
        "A model could not be downloaded, or its files could not be written or removed.",
        "The message states the reason. Downloaded parts are kept: try again to resume.",
    ),
    "update_not_readable": (
        502,
        "The newest version at the source is not a readable model; the old version stays in use.",
        "Report it to the publisher, or pull another model.",
    ),
    "names_broken": (
        503,
        "MODELS_DIR/catalogue.toml is invalid.",
        "Correct the line that the message names, or delete the file.",
    ),
    "model_load_failed": (
        503,
        "The engine could not load the model.",
        "The message ends with the last lines of the engine's log.",
    ),
    "model_unloaded": (503, "The model was unloaded during the request.", "Try again."),
    "model_load_superseded": (
        503,
        "The model was switched to another engine while it was loading.",
        "Try again.",
    ),
    "no_place_for_model": (
        503,
        "MAX_CONCURRENT_MODELS is reached, and all loaded models are pinned.",
        "Raise MAX_CONCURRENT_MODELS, or unload a model.",
    ),
    "conversion_failed": (
        503,
        "The model could not be converted to the engine's format.",
        "The message states the reason; a common one is a full disk.",
    ),
    "model_broken": (503, "The model's files cannot be read.", "Download the model again."),
    "no_engine_for_model": (
        503,
        "No engine on this machine can load the model.",
        "The message contains each engine's reason; see also `vllm-obtain doctor`.",
    ),
    "engine_not_installed": (
        503,
        "The requested engine is not installed.",
        "The message contains the install command.",
    ),
    "too_many_connections": (
        503,
        "All WORKER_CONNECTIONS of this worker are in use.",
        "Try again after `Retry-After` seconds, or raise WORKER_CONNECTIONS or WORKERS.",
    ),
    "supervisor_unavailable": (
        503,
        "The supervisor is restarting.",
        "Try again. If the error persists, see `app.log`.",
    ),
    "draining": (
        503,
        "The service is stopping: it finishes running requests and accepts no new ones.",
        "Try again after `Retry-After` seconds.",
    ),
    "request_timeout": (
        504,
        "The response was not complete within REQUEST_TIMEOUT.",
        "Request fewer tokens, or raise REQUEST_TIMEOUT.",
    ),
    "insufficient_memory": (
        507,
        "The model does not fit into the memory budget.",
        "The message contains the sizes and what would make the model fit.",
    ),
    "insufficient_storage": (
        507,
        "The disk has too little free space for the model; nothing was downloaded.",
        "Free the space that the message names, or set MODELS_DIR to another disk.",
    ),
}

CODES = {code: ErrorCode(code, *texts) for code, texts in _TEXTS.items()}

# Codes that groups of routes share. AUTH and ADMIN are added by a route's `access`.
# Probes and metrics are served on any connection, also above WORKER_CONNECTIONS.
ALWAYS = ("internal_error",)
COMMON = (*ALWAYS, "too_many_connections", "draining")
AUTH = ("invalid_api_key", "keys_needed", "host_not_allowed", "origin_not_allowed")
SCOPE = ("missing_scope",)
ADMIN = (*AUTH, *SCOPE)
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
# Routes that download a model.
PULL = (
    "source_not_found",
    "model_exists",
    "fetch_failed",
    "names_broken",
    "insufficient_storage",
    "overloaded",
)
# Routes that inspect downloaded models.
INSPECT = ("model_not_fetched", "overloaded", "fetch_failed")
# Routes that replace the files of a downloaded model.
UPDATE = (
    "model_not_fetched",
    "update_not_readable",
    "model_being_fetched",
    *LOAD,
)
ROLLBACK = ("no_previous_version", "fetch_failed", "overloaded")
# Routes of all APIs whose requests run on an engine.
ENGINE = (
    *COMMON,
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
# Routes that render messages with a chat template.
CHAT = ("unsupported_content", "invalid_image", "chat_template_error")
# Routes that generate text.
GENERATE = (*ENGINE, *CHAT, "unsupported_schema", "prefill_memory_exceeded")
# Routes that read stored responses.
STORED = (*COMMON, *SUPERVISOR, "response_not_found")
