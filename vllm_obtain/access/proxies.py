"""Who a request is from when it came through a proxy that the owner trusts."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from vllm_obtain.setting_kinds import UNIX
from vllm_obtain.settings import Settings


class Proxies:
    """What TRUSTED_PROXIES says.

    Args:
        settings: the owner's settings.
    """

    def __init__(self, settings: Settings) -> None:
        given = settings.proxies
        self._unix = UNIX in given
        self._networks = [
            ipaddress.ip_network(item, strict=False) for item in given if item != UNIX
        ]
        self.trusts = lru_cache(1024)(self._trusts)

    def client(self, peer: str, forwarded: str) -> str:
        """Find the client's address.

        Args:
            peer: who is connected, a proxy that is trusted.
            forwarded: the header X-Forwarded-For; each proxy adds its client at the end, and what
                stands before that of the first trusted one may be made up.
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
            found = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self._networks)


def _address(hop: str) -> str | None:
    """Read one hop; some proxies add the port."""
    text = hop[1:].partition("]")[0] if hop.startswith("[") else hop
    if text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
