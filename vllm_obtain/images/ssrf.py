"""Protection against server-side request forgery (SSRF) through image URLs.

A client must not reach hosts through this service that only the service can reach: the router, the
metadata service of a cloud, databases in its network. Private addresses are refused unless
IMAGE_PRIVATE_ADDRESSES allows them. A host name is resolved once, and the connection goes to the
address that was checked, so a second DNS answer cannot bypass the check.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from vllm_obtain.gevent_compat import look_up

IP = ipaddress.IPv4Address | ipaddress.IPv6Address

# IPv6 prefixes that embed an IPv4 address in the last bytes (RFC 6052).
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
# IETF protocol assignments; the registry marks some of them as global.
_PROTOCOLS = ipaddress.IPv4Network("192.0.0.0/24")
# IPv4-compatible IPv6 addresses, which are deprecated.
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_IPV4_MASK = 0xFFFFFFFF


def resolve(host: str, port: int) -> list[str]:
    """Resolve a host name to its addresses.

    Raises:
        OSError: the name cannot be resolved.
    """
    records = look_up(host, port)
    return list(dict.fromkeys(str(address[0]) for *_, address in records))


def is_public(address: str) -> bool:
    """Whether an address is publicly routable, including every IPv4 address embedded in it."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    embedded = list(_embedded(parsed))
    # These notations are equivalent to the embedded address alone.
    is_notation = isinstance(parsed, ipaddress.IPv6Address) and (
        parsed.ipv4_mapped is not None or parsed in _NAT64[0]
    )
    return all(map(_is_public, embedded if is_notation else (parsed, *embedded)))


def _is_public(address: IP) -> bool:
    # `is_global` is also true for multicast groups and site-local networks.
    site = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    special = address.is_multicast or address.is_reserved or address in _PROTOCOLS
    return address.is_global and not special and not site


def _embedded(address: IP) -> Iterator[IP]:
    """The IPv4 addresses embedded in an IPv6 address."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in _COMPATIBLE or any(address in network for network in _NAT64):
        yield ipaddress.IPv4Address(int(address) & _IPV4_MASK)
