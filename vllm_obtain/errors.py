"""Every error the service reports, in one tree. `api/errors.py` is the only renderer.

ServiceError
├── InvalidRequest          400  the request cannot be right; `param` names the field
│   ├── UnsupportedParameter
│   ├── ContextLengthExceeded
│   └── RequestQuarantined      it crashes its engine
├── Unauthorized            401  no key, or one that is not known
├── Forbidden               403
│   ├── MissingScope             the key is for something else
│   ├── KeysNeeded               there are no keys, so only this machine is served
│   ├── HostNotAllowed           the client calls this service by a name that is not its own
│   └── OriginNotAllowed         a web page from elsewhere
├── NotFound                404
│   ├── ModelNotFound
│   ├── ResponseNotFound
│   │   └── PreviousResponseNotFound
│   ├── SourceNotFound           a hub has no such model, or not for us
│   ├── NotFetched               the model is not one of those that were fetched
│   ├── PullNotFound
│   └── NotDone                  other services do that on this path
├── Conflict                409
│   ├── ModelExists              another model has that name
│   ├── ModelInUse
│   └── NoPrevious               no version before it is kept
├── BodyTimeout             408  the body comes too slowly
├── TooLarge                413
├── Overloaded              429/503  come back after `retry_after` seconds
├── RateLimited             429  the caller has used up its minute
├── EngineFailed            502/503  an engine crashed or could not start
│   └── InsufficientMemory  507  the model cannot fit
├── FetchFailed             502  a model could not be fetched
│   └── InsufficientStorage 507  the disk has no room for it
├── RequestTimeout          504
└── InternalError           500  a fault of ours; only the request id goes out
SettingsError                    a setting is wrong; printed at start, never over HTTP
StartError                       the service cannot start; printed, never over HTTP
ClientGone                       nobody is left to answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class SettingsError(Exception):
    """A setting has a value that is not allowed."""


class StartError(Exception):
    """The service cannot start here; the message says what to do."""


class ClientGone(Exception):
    """The client closed its connection; the work for it stops."""


class ServiceError(Exception):
    """An answer to a request that is not what was asked for.

    Args:
        message: what happened and what to do, one or two sentences, shown to the client.
        param: the request field that is at fault, in OpenAI's notation (`messages[0].role`).
        code: a stable machine-readable name; the class has a default.
        status: the HTTP status; the class has a default.
        retry_after: seconds after which a retry has a chance; at most 120 is sent.
        retry: whether the official SDKs shall try again by themselves; None leaves it to them.
        headers: more of the answer's headers.
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
    """The request is malformed; sending it again cannot help."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class UnsupportedParameter(InvalidRequest):
    """A parameter that the engine of this model cannot honour, and that is not dropped silently."""

    code = "unsupported_parameter"

    def __init__(self, param: str, why: str) -> None:
        super().__init__(f"Unsupported parameter: '{param}'. {why}", param=param)


class ContextLengthExceeded(InvalidRequest):
    """The prompt has more tokens than the model's context.

    Args:
        prompt_tokens: how many it has.
        context: tokens of prompt and answer together.
        exact: False when the engine stopped counting there.
    """

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context: int, exact: bool = True) -> None:
        self.prompt_tokens = prompt_tokens
        self.context = context
        found = prompt_tokens if exact else f"at least {prompt_tokens}"
        super().__init__(
            f"This model's context is {context} tokens, but the prompt has {found}. "
            f"Shorten it by at least {prompt_tokens - context + 1} tokens."
        )


class RequestQuarantined(InvalidRequest):
    """The request has crashed its engine more than once, and is not asked again."""

    code = "request_quarantined"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry=False)


class Unauthorized(ServiceError):
    """A key is needed, and this is none."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(ServiceError):
    """The service knows who asks, and does not do it for them."""

    status = 403
    type = "permission_error"


class MissingScope(Forbidden):
    """The key is good, but not for this."""

    code = "missing_scope"


class KeysNeeded(Forbidden):
    """There are no keys, and the client is on another machine."""

    code = "keys_needed"


class HostNotAllowed(Forbidden):
    """The name in `Host` is none of this machine's."""

    code = "host_not_allowed"


class OriginNotAllowed(Forbidden):
    """A web page that is not ours, and that CORS_ORIGINS does not name."""

    code = "origin_not_allowed"


class NotFound(ServiceError):
    """There is no such thing here."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """The name is no model of this service; the message lists those that are."""

    code = "model_not_found"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        have = f"Models here: {', '.join(known)}." if known else "MODELS_DIR holds no model yet."
        super().__init__(f"The model '{name}' does not exist. {have}", param="model")


class ResponseNotFound(NotFound):
    """A response that this service does not have, or no longer.

    Args:
        what: who was looked for, as the start of the sentence.
        param: the field that named it, None when the path did.
    """

    code = "response_not_found"

    def __init__(self, what: str, param: str | None = None) -> None:
        self.what = what
        super().__init__(
            f"{what} not found. Responses are kept when they are complete and 'store' is not "
            "false, for the API key that made them, until they are deleted, newer ones need the "
            "room (RESPONSES_STORE_MB), or the service stops. Send the whole conversation as "
            "'input' instead.",
            param=param,
        )


class PreviousResponseNotFound(ResponseNotFound):
    """The response that a request goes on from is not there, or one before it is not."""

    code = "previous_response_not_found"


class SourceNotFound(NotFound):
    """No hub has this model, or none gives it to us; the message says what each of them said."""

    code = "source_not_found"


class NotFetched(NotFound):
    """No model of that name was fetched, so there is nothing to compare it with."""

    code = "model_not_fetched"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="model")


class PullNotFound(NotFound):
    """There is no such pull, or it is long over."""

    code = "pull_not_found"


class NotDone(NotFound):
    """Other services do something on this path; the message says what to do instead."""

    code = "not_supported"


class Conflict(ServiceError):
    """What is here stands against what is asked for. Asking again by itself cannot help."""

    status = 409
    type = "invalid_request_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="model", retry=False)


class ModelExists(Conflict):
    """A model of that name is here, and it is not the one that is asked for."""

    code = "model_exists"


class ModelInUse(Conflict):
    """The model is loaded, or on its way."""

    code = "model_in_use"


class NoPrevious(Conflict):
    """No version before the model's present one is kept."""

    code = "no_previous_version"


class BodyTimeout(ServiceError):
    """The body came more slowly than BODY_TIMEOUT allows."""

    status = 408
    type = "invalid_request_error"
    code = "body_timeout"


class TooLarge(ServiceError):
    """The body is larger than MAX_BODY_MB."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Overloaded(ServiceError):
    """All places are taken; the request was not started."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class RateLimited(ServiceError):
    """A key's requests or tokens per minute are used up."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class EngineFailed(ServiceError):
    """The engine could not be started, or died under the request."""

    status = 502
    type = "server_error"
    code = "engine_failed"


class InsufficientMemory(EngineFailed):
    """The model does not fit into the memory that engines may take."""

    status = 507
    code = "insufficient_memory"


class FetchFailed(ServiceError):
    """A model could not be fetched; what has arrived is kept for the next try."""

    status = 502
    code = "fetch_failed"


class InsufficientStorage(FetchFailed):
    """The disk has no room for the model; nothing was fetched."""

    status = 507
    code = "insufficient_storage"


class RequestTimeout(ServiceError):
    """REQUEST_TIMEOUT passed before the answer was complete."""

    status = 504
    type = "timeout_error"
    code = "request_timeout"


class InternalError(ServiceError):
    """A fault of ours; the log has the details under the request id."""

    status = 500
    type = "server_error"
    code = "internal_error"
