"""What it costs to check a chat request and to write it as an engine takes it."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import msgspec

from bench import checks
from vllm_obtain.catalogue import Catalogue
from vllm_obtain.catalogue.embedded import EMBEDDED
from vllm_obtain.chat.prepare import prepare_chat
from vllm_obtain.chat.speaker import speaker
from vllm_obtain.engines.llama_cpp import LlamaCpp
from vllm_obtain.protocol.parse import parse_chat

_TIMES = 2000
_TURNS = 5
_FUNCTION = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def measure(models: Path) -> tuple[dict[str, Any], list[checks.Check]]:
    """Time a plain request, and one with tools, in this process.

    Args:
        models: the folder with the embedded model.

    Returns:
        Milliseconds, and the verdicts.
    """
    talk: list[dict[str, Any]] = [{"role": "system", "content": "You are a helpful assistant."}]
    for turn in range(_TURNS):
        talk += [
            {"role": "user", "content": f"Question {turn}: what is the sea like in winter?"},
            {
                "role": "assistant",
                "content": "It is grey, cold and full of wind.",
            },
        ]
    body = {"model": EMBEDDED.name, "messages": talk[:-1], "stream": True, "temperature": 0.7}
    plain = _median(models, body)
    tools = _median(models, body | {"tools": [{"type": "function", "function": _FUNCTION}]})
    return {"plain_ms": plain, "tools_ms": tools}, [
        checks.translation(plain),
        checks.told("validation and translation, with a tool: p50", f"{tools:.2f} ms"),
    ]


def _median(models: Path, body: dict[str, Any]) -> float:
    model, adapter = Catalogue(models).find(EMBEDDED.name), LlamaCpp()
    data, times = json.dumps(body).encode(), []
    for _ in range(_TIMES):
        began = time.perf_counter()
        task = prepare_chat(parse_chat(data), speaker(model)).task
        adapter.check(task)
        msgspec.json.encode(adapter.body(task, task.request.token_limit))
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000
