"""A service in front of the stub engine, and what is asked of it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.adapters import StubAdapter
from bench.client import post
from bench.service import Service, running
from tests.catalogue.gguf_files import write_gguf
from vllm_obtain.protocol.parse import parse_chat
from vllm_obtain.protocol.task import Task

MODEL = "tiny"


@contextlib.contextmanager
def stubbed(settings: Mapping[str, str]) -> Iterator[Service]:
    """Run a service whose only model is a stub.

    Args:
        settings: variables over what the benchmark sets.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as models:
        write_gguf(Path(models) / MODEL / f"{MODEL}.gguf")
        variables = {
            "MODELS_DIR": models,
            "INFERENCE_ENGINE": StubAdapter.name,
            "EXTRA_ENGINES": f"{StubAdapter.name}=bench.adapters:StubAdapter",
            "MAX_CONCURRENT_REQUESTS": "5000",
            "WORKER_CONNECTIONS": "2000",
            # It says that its cache holds 2^40 tokens, and has none.
            "MEMORY_LIMIT": str(2**50),
            **settings,
        }
        with running(MODEL, variables) as service:
            yield service


def client_body(tokens: int, how: str = "flood", streamed: bool = True) -> dict[str, Any]:
    """What a client of the gateway asks.

    Args:
        tokens: how many chunks the answer has.
        how: see `stub_server`.
        streamed: whether they come as events.
    """
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": how}],
        "max_tokens": tokens,
        "stream": streamed,
    }
    return body | ({"stream_options": {"include_usage": True}} if streamed else {})


def engine_request(tokens: int, how: str = "flood") -> bytes:
    """What the gateway asks the engine for the same, streamed."""
    typed = parse_chat(json.dumps(client_body(tokens, how)).encode())
    task = Task(typed, f"<|im_start|>user\n{how}<|im_end|>\n")
    adapter = StubAdapter()
    return post(adapter.body(task, typed.token_limit), path=adapter.path(task))
