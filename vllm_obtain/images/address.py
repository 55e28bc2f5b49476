"""Which addresses an image may be fetched from.

A service that fetches what strangers name can be made to knock at doors that only it can reach: the
router, a cloud's metadata, the databases beside it. So private addresses are refused unless the
owner allows them, and what was looked at is what is connected to: a name is resolved once.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator

IP = ipaddress.IPv4Address | ipaddress.IPv6Address

# Where IPv6 carries an address of IPv4 in its last bytes (RFC 6052).
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
# Kept for protocols; the registries call a few of them global.
_PROTOCOLS = ipaddress.IPv4Network("192.0.0.0/24")
# Addresses of IPv4 in another guise, long out of use.
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_LAST = 0xFFFFFFFF


def resolve(host: str, port: int) -> list[str]:
    """Look up the addresses of a host.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Whether an address is one that anybody on the internet can reach."""
    found = ipaddress.ip_address(address.partition("%")[0])
    inside = list(_inside(found))
    # An address that is nothing but another one's writing is what that one is.
    written = isinstance(found, ipaddress.IPv6Address) and (
        found.ipv4_mapped is not None or found in _NAT64[0]
    )
    return all(map(_is_public, inside if written else (found, *inside)))


def _is_public(address: IP) -> bool:
    # The registries of special addresses say `global` of groups, and of networks meant for a site.
    site = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    special = address.is_multicast or address.is_reserved or address in _PROTOCOLS
    return address.is_global and not special and not site


def _inside(address: IP) -> Iterator[IP]:
    """The addresses of IPv4 that one of IPv6 stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in _COMPATIBLE or any(address in network for network in _NAT64):
        yield ipaddress.IPv4Address(int(address) & _LAST)
