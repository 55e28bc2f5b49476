"""Which web pages may use this service from a browser (CORS); none, until the owner says so."""

from __future__ import annotations

from vllm_obtain.errors import OriginNotAllowed
from vllm_obtain.settings import Settings

# Headers that a page may send. Those of the SDKs have names of their own for each version.
_SENT = frozenset(
    "accept accept-language authorization content-type cache-control x-api-key x-request-id "
    "openai-organization openai-project openai-beta idempotency-key anthropic-version "
    "anthropic-beta anthropic-dangerous-direct-browser-access user-agent".split()
)
_SENT_START = "x-stainless-"
# Headers that a page may read.
_READ = (
    "x-request-id, request-id, openai-processing-ms, retry-after, x-should-retry, x-cache, "
    "x-ignored-parameters, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    "x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, "
    "x-ratelimit-reset-tokens"
)
# Seconds for which a browser need not ask again.
_REMEMBERED = "600"


class Origins:
    """What CORS_ORIGINS allows.

    Args:
        settings: the owner's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._allowed = {origin.lower() for origin in settings.page_origins}
        self.any = "*" in self._allowed

    def allows(self, origin: str) -> bool:
        """Say whether pages from there may use the service."""
        return self.any or origin.lower() in self._allowed

    def check(self, origin: str, host: str) -> None:
        """Refuse a page from elsewhere; for requests while there are no keys.

        A browser sends some requests of any page without asking first, and keeps only the answer
        from it: that is enough to unload a model. What no page on the web can be from (`app://`)
        is let through.

        Args:
            origin: the header `Origin`.
            host: the header `Host`.

        Raises:
            OriginNotAllowed: the page is neither ours nor allowed.
        """
        scheme, _, authority = origin.lower().partition("://")
        on_the_web = scheme in ("http", "https", "null")
        if on_the_web and authority != host.lower() and not self.allows(origin):
            raise OriginNotAllowed(
                f"Web pages from {origin[:100]} may not use this service. If they shall, set "
                f"CORS_ORIGINS={origin[:100]} where it runs."
            )

    def answer(self, origin: str) -> dict[str, str]:
        """Headers that let a page read an answer; none for one that may not."""
        if not self.allows(origin):
            return {}
        return {
            "Access-Control-Allow-Origin": "*" if self.any else origin,
            "Access-Control-Expose-Headers": _READ,
        }

    def preflight(self, origin: str, wanted: str, private: bool) -> dict[str, str]:
        """Headers of the answer to a browser that asks before a request.

        Args:
            origin: the page's.
            wanted: the headers it would send, separated by commas.
            private: whether the browser asks if a page on the web may reach a private address.
        """
        names = [name.strip().lower() for name in wanted.split(",")]
        sent = [name for name in names if name in _SENT or name.startswith(_SENT_START)]
        headers = self.answer(origin) | {
            "Access-Control-Allow-Methods": "GET, POST, DELETE, OPTIONS",
            "Access-Control-Allow-Headers": ", ".join(sent),
            "Access-Control-Max-Age": _REMEMBERED,
        }
        return headers | ({"Access-Control-Allow-Private-Network": "true"} if private else {})
