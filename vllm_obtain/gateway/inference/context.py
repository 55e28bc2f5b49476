"""What one inference request carries from the route to the end of its response, and what it is."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from flask import current_app, g, request

from vllm_obtain.chat.sandbox import CALLER, Work
from vllm_obtain.config.settings import Settings, Strictness
from vllm_obtain.errors import UnsupportedParameter
from vllm_obtain.gateway.core.cancellation import CancelToken
from vllm_obtain.gateway.core.coalescing import SharedGeneration, key_of
from vllm_obtain.gateway.core.quota import CallerQuota
from vllm_obtain.gateway.core.services import Services
from vllm_obtain.gateway.core.usage import GenerationStats
from vllm_obtain.gateway.middleware import auth
from vllm_obtain.models import Model
from vllm_obtain.protocol import cache_isolation
from vllm_obtain.protocol.engine_request import EngineRequest
from vllm_obtain.protocol.sampling_params import SamplingParams

# Characters of an ignored parameter's name in the header.
_LONGEST_NAME = 100
# Characters of `X-Unenforced-Schema`.
_LONGEST_HEADER = 1024
# Parameters that do not change the completion, or only give the model a hint.
ADVISORY = frozenset({"store", "service_tier", "verbosity", "prediction"})
_canonical = msgspec.json.Encoder(order="sorted").encode


def _escaped(name: str) -> str:
    """Escape a name for a header: clients choose it freely."""
    return json.dumps(name)[1:-1][:_LONGEST_NAME]


class ParameterPolicy:
    """What happens to the unknown and unsupported parameters of one request.

    They are rejected by name, or ignored; the header X-Ignored-Parameters names the latter.

    Args:
        strictness: STRICT_PARAMETERS. `contract` ignores unknown and advisory parameters, `strict`
            none, `lenient` all.
    """

    def __init__(self, strictness: Strictness) -> None:
        self._strictness = strictness
        self.ignored: list[str] = []
        # Names of the client's API for fields of the translated request.
        self.names: Mapping[str, str] = {}

    @property
    def unknown(self) -> list[str] | None:
        """The list that collects unknown and advisory fields; None if they are rejected."""
        return None if self._strictness == "strict" else self.ignored

    def drop_advisory(self, parameters: dict[str, Any]) -> None:
        """Remove parameters that do not change the completion, unless they are rejected."""
        if self._strictness != "strict":
            for name in ADVISORY & parameters.keys():
                del parameters[name]
                self.ignored.append(name)

    @property
    def header_value(self) -> str:
        """The ignored names, for a header."""
        return ", ".join(_escaped(self.names.get(name, name)) for name in self.ignored)

    def ignore(self, error: UnsupportedParameter, parameters: Container[str]) -> str:
        """Decide that an unsupported parameter is ignored.

        Args:
            error: names the parameter.
            parameters: the parameters that may be removed from the request.

        Returns:
            The name of the parameter to remove.

        Raises:
            UnsupportedParameter: `error`, if the parameter must not be ignored.
        """
        name = error.param or ""
        if self._strictness != "lenient" or name not in parameters:
            raise error
        if name not in self.ignored:  # a retried request drops it again
            self.ignored.append(name)
        return name


@dataclass
class RequestContext:
    """Who sent a request, what limits it, and what the access log reports about it.

    Args:
        owner: the only caller that may get a cached response of this request.
        quota: the caller's quota.
        policy: what happens to parameters that the engine does not support.
        headers: HTTP headers for the engine, such as the trace context.
        deadline: monotonic seconds after which the response is of no use.
        keep_alive: seconds of silence after which an empty list of events is yielded; None for
            never.
        started: monotonic seconds; the time to first token counts from here.
        cancel: fires when the client disconnects or the service stops.
        fingerprint: a content hash of the request; the quarantine knows it by this.
        cache_key: names the response in the cache; None if the response may not be shared.
        prefix_hashes: hashes of the caller and its prompt (see `cache_isolation.py`); empty if
            the prefix cache is shared.
        stats: of the generation that runs for this request alone.
        shared: the generation that this request shares with identical ones.
        leads: whether this request started `shared`, so that its tokens count here.
        problem: the code of the error that ended a stream.
        unenforced: what the grammar of the tool calls does not enforce.
        violations: the keywords that the arguments of the tool calls violate.
    """

    owner: str
    quota: CallerQuota
    policy: ParameterPolicy
    headers: Mapping[str, str]
    deadline: float
    keep_alive: float | None
    started: float
    cancel: CancelToken = field(default_factory=CancelToken)
    fingerprint: bytes = b""
    cache_key: bytes | None = None
    prefix_hashes: tuple[bytes, ...] = ()
    stats: GenerationStats | None = None
    shared: SharedGeneration | None = None
    leads: bool = False
    problem: str | None = None
    unenforced: tuple[str, ...] = ()
    violations: tuple[str, ...] = ()

    @property
    def cache_status(self) -> str:
        """The value of `X-Cache` for a response that identical requests share."""
        is_hit = not self.leads or (self.shared is not None and self.shared.is_cached)
        return "hit" if is_hit else "miss"

    @property
    def unenforced_header(self) -> str:
        """The value of `X-Unenforced-Schema`; one that is cut ends with `...`."""
        text = ", ".join(map(_escaped, self.unenforced[:_LONGEST_HEADER]))
        return text if len(text) <= _LONGEST_HEADER else text[: _LONGEST_HEADER - 3] + "..."

    @property
    def own_stats(self) -> GenerationStats | None:
        """The stats of the generation that ran for this request, if one did."""
        if self.shared is None:
            return self.stats
        return self.shared.stats if self.leads and not self.shared.is_cached else None


def identify(
    context: RequestContext, services: Services, engine_request: EngineRequest, model: Model
) -> None:
    """Compute what the quarantine, the response cache and the prefix cache know a request by."""
    context.fingerprint = fingerprint(engine_request, model)
    if _is_cacheable(services.settings, engine_request.params):
        context.cache_key = key_of(context.fingerprint, model, context.owner)
    if not services.settings.shared_prefix_cache:
        context.prefix_hashes = cache_isolation.compute_prefix_hashes(
            context.owner, engine_request.prompt
        )


def fingerprint(engine_request: EngineRequest, model: Model) -> bytes:
    """Compute a hash of a request that is independent of its caller.

    Args:
        engine_request: everything that the completion depends on. Images are hashed by content.
        model: the model; its revision is part of the fingerprint.
    """
    without_images = replace(engine_request, images=()) if engine_request.images else engine_request
    content = (model.name, model.revision, without_images)
    digest = hashlib.blake2b(_canonical(content), digest_size=24)
    for image in engine_request.images:
        digest.update(hashlib.blake2b(image.data, digest_size=24).digest())
    return digest.digest()


def _is_cacheable(settings: Settings, params: SamplingParams) -> bool:
    return (
        settings.enable_caching
        # A cached response does not record which parameters its engine ignored.
        and settings.strict_parameters != "lenient"
        # Only then do equal requests give equal completions.
        and (params.temperature == 0 or params.seed is not None)
        and "no-store" not in request.headers.get("Cache-Control", "").lower()
    )


def new_context(services: Services, is_stream: bool) -> RequestContext:
    """Make the context of the HTTP request that is being handled, and attach it to `flask.g`.

    Args:
        services: the services of this worker.
        is_stream: whether the response is a stream, which needs to be kept alive.
    """
    now = time.monotonic()
    context = g.context = RequestContext(
        policy=parameter_policy(),
        owner=auth.owner(),
        quota=auth.quota(services.settings),
        headers=g.trace.headers,
        deadline=now + services.settings.request_timeout,
        keep_alive=(services.settings.stream_pulse or None) if is_stream else None,
        started=now,
    )
    return context


@contextlib.contextmanager
def prepared_within(services: Services, seconds: float) -> Iterator[None]:
    """Do the sandbox's work in a block for the caller of the current request.

    Args:
        services: the services of this worker.
        seconds: after which the work raises a RequestTimeout.
    """
    cancel = CancelToken()
    with services.in_flight.track(request.environ, cancel):
        previous = CALLER.set(Work(auth.owner(), time.monotonic() + seconds, cancel))
        try:
            yield
        finally:
            CALLER.reset(previous)


def parameter_policy() -> ParameterPolicy:
    """Return the policy of the HTTP request that is being handled."""
    policy: ParameterPolicy | None = g.get("policy")
    if policy is None:
        policy = g.policy = ParameterPolicy(current_app.config["STRICT_PARAMETERS"])
    return policy
