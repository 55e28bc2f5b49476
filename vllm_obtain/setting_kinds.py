"""What settings about access may be: lists of hosts, origins and networks, and a prefix."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

_HOST = re.compile(r"\*|(\*?\.)?[\w-]+(\.[\w-]+)*|\[?[0-9a-f:.]+\]?", re.I)
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#\s]+", re.I)
_ENDPOINT = re.compile(r"https?://[^/?#\s@]+(/[^?#\s@]*)?", re.I)
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.I)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_PREFIX = re.compile(r"(/[\w.~-]+)+")
# Stands for whoever connects over a Unix socket.
UNIX = "unix"


def items(value: str) -> list[str]:
    """Read a list: several separated by commas or spaces."""
    return value.replace(",", " ").split()


def hosts(value: str) -> str:
    """Check ALLOWED_HOSTS."""
    return _each(value, _HOST.fullmatch, "names such as llm.example.com or .example.com, or *")


def origins(value: str) -> str:
    """Check CORS_ORIGINS."""
    return _each(value, _ORIGIN.fullmatch, "origins such as https://app.example.com, or *")


def networks(value: str) -> str:
    """Check TRUSTED_PROXIES."""
    return _each(value, _is_network, "addresses or networks such as 10.0.0.0/8, or unix")


def endpoint(value: str) -> str:
    """Check HF_ENDPOINT and MODELSCOPE_ENDPOINT."""
    if not _ENDPOINT.fullmatch(value):
        raise ValueError("Input should be an address such as https://hf-mirror.com")
    return value.rstrip("/")


def memory(value: object) -> object:
    """Read MEMORY_LIMIT: a share of the memory up to 1, or bytes, also such as 24G."""
    match = _MEMORY.fullmatch(value.strip()) if isinstance(value, str) else None
    if isinstance(value, str) and match is None:
        raise ValueError("Input should be a share up to 1, or bytes such as 24G or 800M")
    size = float(match[1]) * _UNITS[match[2].upper()] if match else value
    if not isinstance(size, float | int) or not size > 0 or 1 < size < 2**20:
        raise ValueError("Input should be a share above 0 up to 1, or a mebibyte at least")
    return size


def prefix(value: str) -> str:
    """Check URL_PREFIX, and leave out a slash at its end."""
    value = value.rstrip("/")
    if value and not _PREFIX.fullmatch(value):
        raise ValueError("Input should be a path such as /llm")
    return value


def _each(value: str, check: Callable[[str], object], allowed: str) -> str:
    for item in items(value):
        if not check(item):
            raise ValueError(f"Input should be {allowed}; several separated by commas")
    return value


def _is_network(item: str) -> bool:
    try:
        return item == UNIX or bool(ipaddress.ip_network(item, strict=False))
    except ValueError:
        return False
