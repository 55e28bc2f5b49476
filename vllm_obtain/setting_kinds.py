"""What settings may be, where a type says too little: names, paths, sizes, and lists of them."""

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
# Stands for whoever connects over a Unix socket.
UNIX = "unix"
# What a number stands for that was given as "auto".
AUTO = 0
# Arguments of vLLM's that are ours to give, and what to set instead.
_VLLM_OURS = {
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


def lower(value: object) -> object:
    """Take capitals for small letters."""
    return value.strip().lower() if isinstance(value, str) else value


def engine_name(value: str) -> str:
    """Write an engine's name as we do: llama.cpp is llama_cpp."""
    return value.strip().lower().replace(".", "_")


def named_engine(value: object) -> object:
    """Read the name of an engine."""
    return engine_name(value) if isinstance(value, str) else value


def upper(value: object) -> object:
    """Take small letters for capitals."""
    return value.strip().upper() if isinstance(value, str) else value


def path(value: object) -> object:
    """Read a path, as seen from where the service was started."""
    try:
        return Path(value).expanduser().absolute() if isinstance(value, str) else value
    except RuntimeError:
        raise ValueError("Input should be a path; there is no such user") from None


def absolute(value: str) -> str:
    """Read a path that may be left empty."""
    return str(path(value)) if value else ""


def or_auto(value: object, check: Callable[[Any], int]) -> int:
    """Read a number, or `auto` as AUTO."""
    return AUTO if lower(value) == "auto" else check(value)


def plugins(value: str) -> str:
    """Check EXTRA_ENGINES."""
    for item in filter(str.strip, value.split(",")):
        if not _PLUGIN.fullmatch(item.strip()):
            raise ValueError("Input should be name=module:Class, several separated by commas")
    return value


def pins(value: str) -> str:
    """Check MODEL_ENGINES."""
    for item in filter(str.strip, value.split(",")):
        name, equals, engine = item.rpartition("=")
        if not (name.strip() and equals and engine.strip()):
            raise ValueError("Input should be model=engine, several separated by commas")
    return value


def vllm_arguments(value: str) -> str:
    """Check VLLM_EXTRA_ARGS."""
    for word in shlex.split(value):
        name = word.partition("=")[0].replace("_", "-")
        if name in _VLLM_OURS:
            raise ValueError(f"{name} is not allowed here, set {_VLLM_OURS[name]}")
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
