"""Without API keys, the service accepts connections from this machine only."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from functools import lru_cache

from vllm_obtain.access.authenticator import LOCKED_VARIABLE, Authenticator
from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import StartError

# Peer addresses that servers report for Unix sockets.
_NO_ADDRESS = frozenset({"", "<local>", "unix:"})


@lru_cache(1024)
def is_loopback(address: str) -> bool:
    """Whether a peer address is a loopback address or a Unix socket."""
    if address in _NO_ADDRESS:
        return True
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def require_keys(settings: Settings, hosts: Iterable[str]) -> None:
    """Check before a start that API keys protect every address that other machines can reach.

    Args:
        settings: the service's settings.
        hosts: names or addresses to listen on.

    Raises:
        StartError: other machines can connect and no keys are configured, or KEYS_FILE is invalid.
    """
    keys = Authenticator(settings)
    exposed = next((host for host in hosts if not _is_local(host)), None)
    if exposed is not None and not keys.all:
        raise StartError(
            f"HOST={exposed} exposes the service on the network, but no API keys are configured. "
            "Create one with `vllm-obtain keys create` (or set API_KEYS), or set HOST=127.0.0.1."
        )
    if keys.required:
        os.environ[LOCKED_VARIABLE] = "1"


def _is_local(host: str) -> bool:
    host = host.strip("[]")
    if not host or is_loopback(host):
        return bool(host)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(is_loopback(str(address[0])) for *_, address in found)
