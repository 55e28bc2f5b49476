"""CORS policy. By default no web page of another origin may use the service."""

from __future__ import annotations

from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import OriginNotAllowed

# Request headers that a page may send. SDKs add `x-stainless-*` headers.
_REQUEST_HEADERS = frozenset(
    "accept accept-language authorization content-type cache-control x-api-key x-request-id "
    "openai-organization openai-project openai-beta idempotency-key anthropic-version "
    "anthropic-beta anthropic-dangerous-direct-browser-access user-agent".split()
)
_REQUEST_HEADER_PREFIX = "x-stainless-"
# Response headers that a page may read.
_EXPOSED_HEADERS = (
    "x-request-id, request-id, openai-processing-ms, retry-after, x-should-retry, x-cache, "
    "x-ignored-parameters, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    "x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, "
    "x-ratelimit-reset-tokens"
)
# Seconds for which a browser may cache a preflight response.
_MAX_AGE = "600"


class CorsPolicy:
    """The policy set by CORS_ORIGINS.

    Args:
        settings: the service's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._allowed = {origin.lower() for origin in settings.page_origins}
        self.any = "*" in self._allowed

    def allows(self, origin: str) -> bool:
        """Whether pages of an origin may use the service."""
        return self.any or origin.lower() in self._allowed

    def check(self, origin: str, host: str) -> None:
        """Reject a request of a web page of another origin. Used where no API keys are required.

        A browser sends simple requests without a preflight and only hides the response from the
        page. Such a request could unload a model. Origins that no web page can have (`app://`)
        are allowed.

        Args:
            origin: value of the `Origin` header.
            host: value of the `Host` header.

        Raises:
            OriginNotAllowed: the page is of another origin, which CORS_ORIGINS does not list.
        """
        scheme, _, authority = origin.lower().partition("://")
        on_the_web = scheme in ("http", "https", "null")
        if on_the_web and authority != host.lower() and not self.allows(origin):
            raise OriginNotAllowed(
                f"Origin {origin[:100]} is not allowed. To allow it, set "
                f"CORS_ORIGINS={origin[:100]} and restart the service."
            )

    def check_fetch(self, site: str, mode: str) -> None:
        """Reject a request that a browser sends for another site without an `Origin` header.

        Images, scripts and links of a web page are requested without it, and such a GET may have
        effects. Used where no API keys are required.

        Args:
            site: value of the `Sec-Fetch-Site` header, empty if the client is no browser.
            mode: value of the `Sec-Fetch-Mode` header.

        Raises:
            OriginNotAllowed: a page of another origin requests it.
        """
        if site in ("cross-site", "same-site") and mode != "cors" and not self.any:
            raise OriginNotAllowed(
                "Requests from pages of other sites are not allowed. Open the address directly, or "
                "list the page's origin in CORS_ORIGINS and use fetch()."
            )

    def response_headers(self, origin: str) -> dict[str, str]:
        """Return the CORS headers of a response; none if the origin is not allowed."""
        if not self.allows(origin):
            return {}
        return {
            "Access-Control-Allow-Origin": "*" if self.any else origin,
            "Access-Control-Expose-Headers": _EXPOSED_HEADERS,
        }

    def preflight(self, origin: str, wanted: str, private: bool) -> dict[str, str]:
        """Return the headers of the response to a preflight request.

        Args:
            origin: value of the `Origin` header.
            wanted: value of `Access-Control-Request-Headers`.
            private: whether the browser asks for access to a private network address.
        """
        names = [name.strip().lower() for name in wanted.split(",")]
        allowed = [
            name
            for name in names
            if name in _REQUEST_HEADERS or name.startswith(_REQUEST_HEADER_PREFIX)
        ]
        headers = self.response_headers(origin) | {
            "Access-Control-Allow-Methods": "GET, POST, DELETE, OPTIONS",
            "Access-Control-Allow-Headers": ", ".join(allowed),
            "Access-Control-Max-Age": _MAX_AGE,
        }
        return headers | ({"Access-Control-Allow-Private-Network": "true"} if private else {})
