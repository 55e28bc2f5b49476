"""Validators of settings: names, addresses, paths, sizes, and lists of them.

The text of a ValueError continues the name of the setting, as in `PORT must be …`.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

_HOST = re.compile(r"\*|(\*?\.)?[\w-]+(\.[\w-]+)*|\[?[0-9a-f:.]+\]?", re.I)
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#\s]+", re.I)
_ENDPOINT = re.compile(r"https?://[^/?#\s@]+(/[^?#\s@]*)?", re.I)
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.I)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_PLUGIN = re.compile(r"[\w.-]+\s*=\s*[\w.]+:\w+")
_PREFIX = re.compile(r"(/[\w.~-]+)+")
# Value of TRUSTED_PROXIES for clients on a Unix socket.
UNIX = "unix"
# Value of a numeric setting that was set to `auto`.
AUTO = 0
# vLLM arguments that the service sets itself, and the setting for each.
_RESERVED_VLLM_ARGUMENTS = {
    "--uds": "PORT",
    "--host": "HOST",
    "--port": "PORT",
    "--model": "MODELS_DIR",
    "--max-num-seqs": "MAX_CONCURRENT_REQUESTS",
    "--max-model-len": "VLLM_MAX_MODEL_LEN",
    "--gpu-memory-utilization": "VLLM_GPU_MEMORY_UTILIZATION",
    "--tensor-parallel-size": "VLLM_TENSOR_PARALLEL_SIZE",
    "--pipeline-parallel-size": "VLLM_PIPELINE_PARALLEL_SIZE",
    "--distributed-executor-backend": "VLLM_DISTRIBUTED_EXECUTOR",
}


def items(value: str) -> list[str]:
    """Split a list at commas and spaces."""
    return value.replace(",", " ").split()


def hosts(value: str) -> str:
    """Check ALLOWED_HOSTS."""
    return _check_items(
        value, _HOST.fullmatch, "names such as llm.example.com or .example.com, or *"
    )


def origins(value: str) -> str:
    """Check CORS_ORIGINS."""
    return _check_items(value, _ORIGIN.fullmatch, "origins such as https://app.example.com, or *")


def networks(value: str) -> str:
    """Check TRUSTED_PROXIES."""
    return _check_items(value, _is_network, "addresses or networks such as 10.0.0.0/8, or unix")


def endpoint(value: str) -> str:
    """Check HF_ENDPOINT and MODELSCOPE_ENDPOINT."""
    if not _ENDPOINT.fullmatch(value):
        raise ValueError("must be a URL such as https://hf-mirror.com")
    return value.rstrip("/")


def memory(value: object) -> object:
    """Parse MEMORY_LIMIT: a share of the memory up to 1, or bytes with an optional unit."""
    match = _MEMORY.fullmatch(value.strip()) if isinstance(value, str) else None
    if isinstance(value, str) and match is None:
        raise ValueError("must be a share up to 1, or bytes such as 24G or 800M")
    size = float(match[1]) * _UNITS[match[2].upper()] if match else value
    if not isinstance(size, float | int) or not size > 0 or 1 < size < 2**20:
        raise ValueError("must be a share greater than 0 and at most 1, or at least 1M")
    return size


def prefix(value: str) -> str:
    """Check URL_PREFIX and remove a trailing slash."""
    value = value.rstrip("/")
    if value and not _PREFIX.fullmatch(value):
        raise ValueError("must be a URL path such as /llm")
    return value


def lower(value: object) -> object:
    """Convert a string to lower case."""
    return value.strip().lower() if isinstance(value, str) else value


def engine_name(value: str) -> str:
    """Normalize an engine name: `llama.cpp` becomes `llama_cpp`."""
    return value.strip().lower().replace(".", "_")


def named_engine(value: object) -> object:
    """Normalize an engine name; other types pass unchanged."""
    return engine_name(value) if isinstance(value, str) else value


def strictness(value: object) -> object:
    """Normalize STRICT_PARAMETERS, which was a boolean in 0.1.0."""
    text = str(value).strip().lower()
    return {"true": "contract", "false": "lenient"}.get(text, text)


def upper(value: object) -> object:
    """Convert a string to upper case."""
    return value.strip().upper() if isinstance(value, str) else value


def path(value: object) -> object:
    """Make a path absolute, relative to the working directory."""
    try:
        return Path(value).expanduser().absolute() if isinstance(value, str) else value
    except RuntimeError:
        raise ValueError("must be a path of an existing user") from None


def absolute(value: str) -> str:
    """Make a path absolute; an empty one stays empty."""
    return str(path(value)) if value else ""


def or_auto(value: object, check: Callable[[Any], int]) -> int:
    """Parse a number, or `auto` as AUTO."""
    return AUTO if lower(value) == "auto" else check(value)


def plugins(value: str) -> str:
    """Check EXTRA_ENGINES."""
    for item in filter(str.strip, value.split(",")):
        if not _PLUGIN.fullmatch(item.strip()):
            raise ValueError("must be name=module:Class, separated by commas")
    return value


def pins(value: str) -> str:
    """Check MODEL_ENGINES."""
    for item in filter(str.strip, value.split(",")):
        name, equals, engine = item.rpartition("=")
        if not (name.strip() and equals and engine.strip()):
            raise ValueError("must be model=engine, separated by commas")
    return value


def vllm_arguments(value: str) -> str:
    """Check VLLM_EXTRA_ARGS."""
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"must be valid shell words ({error})") from None
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if name in _RESERVED_VLLM_ARGUMENTS:
            setting = _RESERVED_VLLM_ARGUMENTS[name]
            raise ValueError(f"must not contain {name} (set {setting} instead)")
    return value


def _check_items(value: str, check: Callable[[str], object], allowed: str) -> str:
    for item in items(value):
        if not check(item):
            raise ValueError(f"must be {allowed}, separated by commas")
    return value


def _is_network(item: str) -> bool:
    try:
        return item == UNIX or bool(ipaddress.ip_network(item, strict=False))
    except ValueError:
        return False
