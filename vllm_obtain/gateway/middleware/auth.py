"""Authentication and access control; runs before the body is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flask import g, request

from vllm_obtain.access.api_key import ADMIN, ApiKey, Scope
from vllm_obtain.access.authenticator import need
from vllm_obtain.access.loopback import is_loopback
from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import KeysNeeded
from vllm_obtain.gateway.core.quota import CallerQuota
from vllm_obtain.gateway.core.route import Access
from vllm_obtain.gateway.core.services import Services


def check(access_of: Mapping[str, Access], services: Services) -> None:
    """Check the host name, the origin and the API key of a request.

    Args:
        access_of: the required access of each route, by endpoint.
        services: the services of this worker.

    Raises:
        ServiceError: the request is not allowed.
    """
    # Unknown paths need a key too, so that they do not reveal which routes exist.
    access = access_of.get(request.endpoint or "", "inference")
    if access == "open":
        return
    environ = request.environ
    host = environ.get("HTTP_HOST", "")
    keyed = services.authenticator.required
    services.allowed_hosts.check(host, keyed)
    if not keyed:
        if not is_loopback(request.remote_addr or ""):
            raise KeysNeeded(
                "No API keys are configured, so the service accepts local connections only. The "
                "operator can create a key with `vllm-obtain keys create`. Send it in the header "
                "'Authorization: Bearer <key>'."
            )
        if origin := environ.get("HTTP_ORIGIN"):
            services.cors.check(origin, host)
        elif site := environ.get("HTTP_SEC_FETCH_SITE"):
            services.cors.check_fetch(site, environ.get("HTTP_SEC_FETCH_MODE", ""))
    elif not _is_public(services, access):
        g.key = services.authenticator.admit(_credentials(environ))
        need(g.key, ADMIN if access == "admin" else "inference", "This route")


def caller() -> ApiKey | None:
    """Return the API key of the request; None if no keys are configured."""
    key: ApiKey | None = g.get("key")
    return key


def quota(settings: Settings) -> CallerQuota:
    caller_quota: CallerQuota | None = g.get("quota")
    if caller_quota is None:
        caller_quota = g.quota = CallerQuota(caller(), settings)
    return caller_quota


def owner() -> str:
    """Return the identity that stored responses and cache entries belong to.

    It is the API key, or without configured keys the credentials that the client sends.
    """
    key = caller()
    if key is not None:
        # Not the key's id: for API_KEYS it is the position in the list, which may change.
        return f"key {key.hash}"
    environ = request.environ
    credentials: str = environ.get("HTTP_AUTHORIZATION") or environ.get("HTTP_X_API_KEY", "")
    return credentials


def require(scope: Scope, what: str) -> None:
    """Require a scope for a part of a request; arguments as in `authenticator.need`."""
    need(caller(), scope, what)


def _is_public(services: Services, access: Access) -> bool:
    public = {"docs": services.settings.public_docs, "metrics": services.settings.public_metrics}
    return public.get(access, False)


def _credentials(environ: Mapping[str, Any]) -> Iterator[str]:
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        yield token.strip()
    if token := environ.get("HTTP_X_API_KEY", "").strip():
        yield token
