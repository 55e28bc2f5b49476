"""Without keys the service is for this machine alone."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from functools import lru_cache

from vllm_obtain.access.keys import LOCKED_VARIABLE, Keys
from vllm_obtain.errors import KeysNeeded, StartError
from vllm_obtain.settings import Settings

# What servers call the peer of a Unix socket.
_NO_ADDRESS = frozenset({"", "<local>", "unix:"})


@lru_cache(1024)
def is_here(address: str) -> bool:
    """Say whether a peer, by its address, is this machine."""
    if address in _NO_ADDRESS:
        return True
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def check_peer(address: str) -> None:
    """Refuse who is not this machine; for requests while there are no keys.

    Raises:
        KeysNeeded: it comes from elsewhere.
    """
    if not is_here(address):
        raise KeysNeeded(
            "This service has no API keys, so it answers its own machine only. Whoever runs it "
            "makes one with `vllm-obtain keys create`; send it as 'Authorization: Bearer <key>'."
        )


def require_keys(settings: Settings, hosts: Iterable[str]) -> None:
    """Check before a start that nobody from elsewhere gets in without a key.

    Args:
        settings: the owner's settings.
        hosts: where it will listen: names or addresses.

    Raises:
        StartError: others reach it and there are no keys, or KEYS_FILE cannot be used.
    """
    keys = Keys(settings)
    open_to = next((host for host in hosts if not _is_local(host)), None)
    if open_to is not None and not keys.all:
        raise StartError(
            f"HOST={open_to} lets other machines in, and there are no API keys. Make one with "
            "`vllm-obtain keys create` (or set API_KEYS), or listen on 127.0.0.1."
        )
    if keys.required:
        os.environ[LOCKED_VARIABLE] = "1"


def _is_local(host: str) -> bool:
    host = host.strip("[]")
    if not host or is_here(host):
        return bool(host)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(is_here(str(address[0])) for *_, address in found)
