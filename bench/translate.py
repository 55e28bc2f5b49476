"""Time for validating a chat request and translating it for an engine."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import msgspec

from bench import checks
from vllm_obtain.chat.chat_format import chat_format
from vllm_obtain.chat.prepare import prepare_chat
from vllm_obtain.download.bundled_model import EMBEDDED
from vllm_obtain.engines.llama_cpp.adapter import LlamaCpp
from vllm_obtain.models import ModelCatalog
from vllm_obtain.protocol.parsing import parse_chat
from vllm_obtain.protocol.requests import used_parameters
from vllm_obtain.protocol.sampling_params import SamplingParams

_REPETITIONS = 2000
_TURNS = 5
_FUNCTION = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def measure(models: Path) -> tuple[dict[str, Any], list[checks.Check]]:
    """Measure a chat without and with a tool, in this process.

    Args:
        models: folder with the embedded model.

    Returns:
        Milliseconds and the checks.
    """
    chat: list[dict[str, Any]] = [{"role": "system", "content": "You are a helpful assistant."}]
    for turn in range(_TURNS):
        chat += [
            {"role": "user", "content": f"Question {turn}: what is the sea like in winter?"},
            {
                "role": "assistant",
                "content": "It is grey, cold and full of wind.",
            },
        ]
    body = {"model": EMBEDDED.name, "messages": chat[:-1], "stream": True, "temperature": 0.7}
    plain = _median(models, body)
    tools = _median(models, body | {"tools": [{"type": "function", "function": _FUNCTION}]})
    return {"plain_ms": plain, "tools_ms": tools}, [
        checks.translation(plain),
        checks.figure("validation and translation, with a tool: p50", f"{tools:.2f} ms"),
    ]


def _median(models: Path, body: dict[str, Any]) -> float:
    model, adapter = ModelCatalog(models).find(EMBEDDED.name), LlamaCpp()
    data, times = json.dumps(body).encode(), []
    for _ in range(_REPETITIONS):
        start = time.perf_counter()
        chat = parse_chat(data)
        params = SamplingParams.resolve(used_parameters(chat))
        task = prepare_chat(chat, params, chat_format(model)).request
        adapter.check(task)
        msgspec.json.encode(adapter.body(task, params.max_tokens))
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000
