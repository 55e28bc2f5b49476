"""`python -m bench.structured_output`: validate 100 tool calls and 100 JSON outputs per engine.

Ten schemas of growing size with ten seeds each, at temperature 1. Half of the responses are
streamed. VLLM_PYTHON is the interpreter that has vLLM. Engines that are not installed are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import openai

from bench.engines import engine_services
from bench.service import ROOT, Service
from tests.contract.schemas import SCHEMAS, sample_cases, validate
from vllm_obtain.download.bundled_model import EMBEDDED

RESULTS = ROOT / "bench" / "results"
# Concurrent requests that suit an engine.
CONCURRENCY = {"llama_cpp": 8, "mlx": 8, "vllm": 16}
MAX_TOKENS = 500
_MESSAGES = [{"role": "user", "content": "Tell me about a small town."}]


def measure(name: str, service: Service, count: int, seed: int) -> list[dict[str, Any]]:
    """Request tool calls and JSON outputs from one engine.

    Args:
        name: name of the engine.
        service: service with this engine.
        count: number of requests of each kind, up to 100.
        seed: selects the requests if there are fewer than 100.

    Returns:
        A row per kind.
    """
    cases = sample_cases(seed, count)
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none", timeout=600
    ) as client:
        return [
            _kind(name, kind, cases, lambda case, send=send: send(client, *case))
            for kind, send in (("tool calls", _call), ("JSON schemas", _json))
        ]


def _kind(engine: str, kind: str, cases: list[tuple[int, int]], send: Any) -> dict[str, Any]:
    start = time.monotonic()
    with ThreadPoolExecutor(CONCURRENCY.get(engine, 4)) as pool:
        verdicts = Counter(pool.map(send, cases))
    invalid = {why: number for why, number in verdicts.items() if why != "valid"}
    return {
        "engine": engine,
        "kind": kind,
        "requests": len(cases),
        "valid": verdicts["valid"],
        "invalid": invalid,
        "seconds": round(time.monotonic() - start, 1),
    }


def _call(client: openai.OpenAI, number: int, seed: int) -> str:
    function = {"name": "note", "description": "Note it.", "parameters": SCHEMAS[number]}
    more: dict[str, Any] = {
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
    }
    text, arguments = _response(client, seed, more)
    return "text next to the tool call" if text else _verdict(arguments, number)


def _json(client: openai.OpenAI, number: int, seed: int) -> str:
    named = {"name": "answer", "schema": SCHEMAS[number], "strict": True}
    more = {"response_format": {"type": "json_schema", "json_schema": named}}
    text, _ = _response(client, seed, more)
    return _verdict(text, number)


def _response(client: openai.OpenAI, seed: int, more: dict[str, Any]) -> tuple[str, str]:
    """Return the text of a response and the arguments of its tool call."""
    chunks = client.chat.completions.create(
        model=EMBEDDED.name,
        messages=_MESSAGES,  # type: ignore[arg-type]
        temperature=1.0,
        seed=seed,
        max_tokens=MAX_TOKENS,
        stream=seed % 2 == 1,
        **more,
    )
    text, arguments = "", ""
    for chunk in chunks if seed % 2 else [chunks]:
        for choice in chunk.choices:
            message = choice.delta if seed % 2 else choice.message
            text += message.content or ""
            for call in message.tool_calls or []:
                arguments += call.function.arguments
    return text, arguments


def _verdict(text: str, number: int) -> str:
    try:
        validate(json.loads(text), SCHEMAS[number])
    except json.JSONDecodeError:
        return "not JSON"
    except jsonschema.ValidationError:
        return "does not match the schema"
    return "valid"


def table(rows: list[dict[str, Any]]) -> str:
    """Write the rows as a Markdown table."""
    lines = ["| engine | output | valid | seconds |", "| --- | --- | --- | --- |"]
    for row in rows:
        valid = f"{row['valid']} of {row['requests']}"
        invalid = "".join(f", {number} {why}" for why, number in row["invalid"].items())
        lines.append(f"| {row['engine']} | {row['kind']} | {valid}{invalid} | {row['seconds']} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run all engines; returns 0 if all outputs were valid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--count", type=int, default=100, help="requests of each kind, up to 100")
    parser.add_argument(
        "--seed", type=int, default=1, help="selects the requests if there are fewer than 100"
    )
    parser.add_argument("--engines", default="", help="only these engines, comma-separated")
    arguments = parser.parse_args()
    selected = [name for name in arguments.engines.split(",") if name]
    rows: list[dict[str, Any]] = []
    with engine_services(Path(os.environ.get("MODELS_DIR", ROOT / "models"))) as services:
        for name, service in services.items():
            if selected and name not in selected:
                continue
            rows += measure(name, service, arguments.count, arguments.seed)
            print(table(rows[-2:]), flush=True)
    if arguments.count == 100 and not selected:
        (RESULTS / "structured_output.json").write_text(json.dumps(rows, indent=1) + "\n")
        (RESULTS / "structured_output.md").write_text(table(rows))
    return 0 if all(row["valid"] == row["requests"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
