"""Every error that the service reports, in one hierarchy.

`gateway/middleware/error_handler.py` is the only renderer.

ServiceError
├── InvalidRequest          400  the request is invalid; `param` names the field
│   ├── UnsupportedParameter
│   ├── ContextLengthExceeded
│   └── RequestQuarantined      the request crashes its engine
├── Unauthorized            401  no API key, or an unknown one
├── Forbidden               403
│   ├── MissingScope             the API key lacks the scope of the route
│   ├── KeysNeeded               no API keys are configured and the client is remote
│   ├── HostNotAllowed           the `Host` header is not an address of this machine
│   └── OriginNotAllowed         the request comes from a web page of another origin
├── NotFound                404
│   ├── ModelNotFound
│   ├── ResponseNotFound
│   │   └── PreviousResponseNotFound
│   ├── SourceNotFound           no source has the model, or access was denied
│   ├── NotFetched               the model was not downloaded by this service
│   ├── PullNotFound
│   └── NotImplementedRoute      a route of another service that this one does not have
├── Conflict                409
│   ├── ModelExists              another model has that name
│   ├── ModelInUse
│   └── NoPrevious               no previous version is stored
├── BodyTimeout             408  the body arrives too slowly
├── TooLarge                413
├── Overloaded              429/503  retry after `retry_after` seconds
├── RateLimited             429  the caller's quota is used up
├── EngineFailed            502/503  an engine crashed or could not start
│   └── InsufficientMemory  507  the model does not fit
├── FetchFailed             502  a model could not be downloaded
│   └── InsufficientStorage 507  the disk has too little free space
├── RequestTimeout          504
└── InternalError           500  a bug; the client sees the request id only
SettingsError                    a setting is invalid; printed at start, never sent over HTTP
StartError                       the service cannot start; printed, never sent over HTTP
ClientDisconnected               the client closed its connection
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class SettingsError(Exception):
    """A setting has an invalid value."""


class StartError(Exception):
    """The service cannot start; the message says what to do."""


class ClientDisconnected(Exception):
    """The client closed its connection; its generation is cancelled."""


class ServiceError(Exception):
    """An error that is sent to the client as a response.

    Args:
        message: what happened and what to do, one or two sentences, shown to the client.
        param: the invalid request field, in OpenAI's notation (`messages[0].role`).
        code: stable machine-readable name; the class has a default.
        status: HTTP status; the class has a default.
        retry_after: seconds to wait before a retry; sent as at most 120.
        retry: value of `x-should-retry` for the official SDKs; None omits the header.
        headers: additional response headers.
    """

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        retry: bool | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.status = status or type(self).status
        self.retry_after = retry_after
        self.retry = retry
        self.headers = dict(headers or {})


class InvalidRequest(ServiceError):
    """The request is invalid; a retry fails again."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class UnsupportedParameter(InvalidRequest):
    """A parameter that changes the result and that the model's engine cannot honour."""

    code = "unsupported_parameter"

    def __init__(self, param: str, reason: str) -> None:
        super().__init__(f"Unsupported parameter: '{param}'. {reason}", param=param)


class ContextLengthExceeded(InvalidRequest):
    """The prompt has more tokens than the model's context length.

    Args:
        prompt_tokens: tokens of the prompt.
        context: the context length in tokens.
        exact: False if the engine stopped counting at `prompt_tokens`.
    """

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context: int, exact: bool = True) -> None:
        self.prompt_tokens = prompt_tokens
        self.context = context
        count = prompt_tokens if exact else f"at least {prompt_tokens}"
        super().__init__(
            # OpenAI's words: clients recognise the error by them, and read the numbers.
            f"This model's maximum context length is {context} tokens. However, your messages "
            f"resulted in {count} tokens. Shorten the prompt by at least "
            f"{prompt_tokens - context + 1} tokens."
        )


class RequestQuarantined(InvalidRequest):
    """The request crashed its engine more than once and is refused."""

    code = "request_quarantined"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry=False)


class Unauthorized(ServiceError):
    """The request has no valid API key."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(ServiceError):
    """The caller or client is not allowed to use the route."""

    status = 403
    type = "permission_error"


class MissingScope(Forbidden):
    """The API key is valid, but lacks the scope of the route."""

    code = "missing_scope"


class KeysNeeded(Forbidden):
    """No API keys are configured, and the client is on another machine."""

    code = "keys_needed"


class HostNotAllowed(Forbidden):
    """The `Host` header is not an address of this machine."""

    code = "host_not_allowed"


class OriginNotAllowed(Forbidden):
    """The request comes from a web page whose origin CORS_ORIGINS does not contain."""

    code = "origin_not_allowed"


class NotFound(ServiceError):
    """The route or the named object does not exist."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """The model does not exist; the message lists the models that do."""

    code = "model_not_found"

    def __init__(self, name: str, known: Sequence[str], closest: str | None = None) -> None:
        meant = f"Did you mean '{closest}'? " if closest else ""
        models = f"Available models: {', '.join(known)}." if known else "MODELS_DIR has no models."
        super().__init__(f"The model '{name}' does not exist. {meant}{models}", param="model")


class ResponseNotFound(NotFound):
    """A response or item is not stored, or no longer.

    Args:
        subject: the object that was not found, as the start of the message.
        param: the field that named it; None if the path did.
    """

    code = "response_not_found"

    def __init__(self, subject: str, param: str | None = None) -> None:
        self.subject = subject
        super().__init__(
            f"{subject} not found. Complete responses are stored per API key unless 'store' is "
            "false. They are removed by DELETE, by newer responses when RESPONSES_STORE_MB is "
            "reached, and when the service stops. Send the whole conversation as 'input' instead.",
            param=param,
        )


class PreviousResponseNotFound(ResponseNotFound):
    """The response that a request continues, or one before it, is not stored."""

    code = "previous_response_not_found"


class SourceNotFound(NotFound):
    """No source has the model, or access was denied; the message has each source's reply."""

    code = "source_not_found"


class NotFetched(NotFound):
    """The model was not downloaded by this service, so its source is unknown."""

    code = "model_not_fetched"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="model")


class PullNotFound(NotFound):
    """The download does not exist, or ended more than an hour ago."""

    code = "pull_not_found"


class NotImplementedRoute(NotFound):
    """A route of another service that this one does not have; the message names an alternative."""

    code = "not_supported"


class Conflict(ServiceError):
    """The state of a model does not allow the request; SDKs should not retry."""

    status = 409
    type = "invalid_request_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="model", retry=False)


class ModelExists(Conflict):
    """Another model has the requested name."""

    code = "model_exists"


class ModelInUse(Conflict):
    """The model is loaded or loading."""

    code = "model_in_use"


class NoPrevious(Conflict):
    """No previous version of the model is stored."""

    code = "no_previous_version"


class BodyTimeout(ServiceError):
    """The body did not arrive within BODY_TIMEOUT."""

    status = 408
    type = "invalid_request_error"
    code = "body_timeout"


class TooLarge(ServiceError):
    """The body is larger than MAX_BODY_MB."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Overloaded(ServiceError):
    """A concurrency limit is reached; the request was not started."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class RateLimited(ServiceError):
    """The API key's requests or tokens per minute are used up."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class EngineFailed(ServiceError):
    """The engine could not start, or crashed during the request."""

    status = 502
    type = "server_error"
    code = "engine_failed"


class InsufficientMemory(EngineFailed):
    """The model does not fit into the memory budget."""

    status = 507
    code = "insufficient_memory"


class FetchFailed(ServiceError):
    """A model could not be downloaded; a new attempt resumes the download."""

    status = 502
    code = "fetch_failed"


class InsufficientStorage(FetchFailed):
    """The disk has too little free space for the model; nothing was downloaded."""

    status = 507
    code = "insufficient_storage"


class RequestTimeout(ServiceError):
    """The response was not complete within REQUEST_TIMEOUT."""

    status = 504
    type = "timeout_error"
    code = "request_timeout"


class InternalError(ServiceError):
    """A bug; the log has the details under the request id."""

    status = 500
    type = "server_error"
    code = "internal_error"
