"""The client address of requests that arrive through trusted proxies."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from vllm_obtain.config.settings import Settings
from vllm_obtain.config.validators import UNIX


class TrustedProxies:
    """The proxies of TRUSTED_PROXIES.

    Args:
        settings: the service's settings.
    """

    def __init__(self, settings: Settings) -> None:
        proxies = settings.proxies
        self._unix = UNIX in proxies
        self._networks = [
            ipaddress.ip_network(item, strict=False) for item in proxies if item != UNIX
        ]
        self.trusts = lru_cache(1024)(self._trusts)

    def client(self, peer: str, forwarded: str) -> str:
        """Return the client's address.

        Args:
            peer: address of the connection, a trusted proxy.
            forwarded: value of X-Forwarded-For. Each proxy appends its client's address, so entries
                before the first untrusted address from the right may be forged.
        """
        client = peer
        for hop in reversed([hop.strip() for hop in forwarded.split(",")]):
            address = _address(hop)
            if address is None:
                break
            client = address
            if not self.trusts(address):
                break
        return client

    def _trusts(self, peer: str) -> bool:
        if peer in ("", "<local>"):
            return self._unix
        try:
            parsed = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in network for network in self._networks)


def _address(hop: str) -> str | None:
    """Parse one hop, with or without a port; None if it is not an IP address."""
    text = hop[1:].partition("]")[0] if hop.startswith("[") else hop
    if text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
