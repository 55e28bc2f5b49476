"""A service in front of the stub engine, and requests for it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.adapters import StubAdapter
from bench.client import post
from bench.service import Service, start_service
from tests.models.gguf_files import write_gguf
from vllm_obtain.protocol.engine_request import EngineRequest
from vllm_obtain.protocol.parsing import parse_chat
from vllm_obtain.protocol.requests import used_parameters
from vllm_obtain.protocol.sampling_params import SamplingParams

MODEL = "tiny"


@contextlib.contextmanager
def stub_service(settings: Mapping[str, str]) -> Iterator[Service]:
    """Run a service whose only model is a stub.

    Args:
        settings: environment variables that override those of the benchmark.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as models:
        write_gguf(Path(models) / MODEL / f"{MODEL}.gguf")
        variables = {
            "MODELS_DIR": models,
            "INFERENCE_ENGINE": StubAdapter.name,
            "EXTRA_ENGINES": f"{StubAdapter.name}=bench.adapters:StubAdapter",
            "MAX_CONCURRENT_REQUESTS": "5000",
            "WORKER_CONNECTIONS": "2000",
            # The stub claims a KV cache of 2^40 tokens and allocates none.
            "MEMORY_LIMIT": str(2**50),
            **settings,
        }
        with start_service(MODEL, variables) as service:
            yield service


def client_body(tokens: int, mode: str = "flood", stream: bool = True) -> dict[str, Any]:
    """Build a request body of a client.

    Args:
        tokens: number of chunks in the response.
        mode: mode of `stub_server`.
        stream: whether to request a stream.
    """
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": mode}],
        "max_tokens": tokens,
        "stream": stream,
    }
    return body | ({"stream_options": {"include_usage": True}} if stream else {})


def engine_request(tokens: int, mode: str = "flood") -> bytes:
    """Build the streaming request that the gateway sends to the engine for it."""
    chat = parse_chat(json.dumps(client_body(tokens, mode)).encode())
    params = SamplingParams.resolve(used_parameters(chat))
    task = EngineRequest(f"<|im_start|>user\n{mode}<|im_end|>\n", params, is_chat=True)
    adapter = StubAdapter()
    return post(adapter.body(task, params.max_tokens), path=adapter.path(task))
