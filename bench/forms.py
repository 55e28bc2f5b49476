"""`python -m bench.forms`: do answers keep to their forms? 100 calls and 100 schemas per engine.

Ten schemas of growing size, each with ten seeds, at temperature 1; half of the answers streamed.
VLLM_PYTHON names the interpreter that has vLLM; an engine that is not installed is left out.
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

from bench.engines import fleet
from bench.service import ROOT, Service
from tests.contract.schemas import SCHEMAS, drawn, validate
from vllm_obtain.catalogue.embedded import EMBEDDED

RESULTS = ROOT / "bench" / "results"
# Requests at once: what an engine is good at.
TOGETHER = {"llama_cpp": 8, "mlx": 8, "vllm": 16}
MAX_TOKENS = 500
_ASK = [{"role": "user", "content": "Tell me about a small town."}]


def measure(name: str, service: Service, count: int, seed: int) -> list[dict[str, Any]]:
    """Ask one engine for both kinds.

    Args:
        name: of the engine.
        service: in front of it.
        count: how many of each kind, up to 100.
        seed: says which, if not all.

    Returns:
        A row per kind.
    """
    asked = drawn(seed, count)
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none", timeout=600
    ) as client:
        return [
            _kind(name, kind, asked, lambda what, ask=ask: ask(client, *what))
            for kind, ask in (("tool calls", _call), ("schemas", _shaped))
        ]


def _kind(engine: str, kind: str, asked: list[tuple[int, int]], ask: Any) -> dict[str, Any]:
    began = time.monotonic()
    with ThreadPoolExecutor(TOGETHER.get(engine, 4)) as pool:
        verdicts = Counter(pool.map(ask, asked))
    wrong = {why: number for why, number in verdicts.items() if why != "valid"}
    return {
        "engine": engine,
        "kind": kind,
        "asked": len(asked),
        "valid": verdicts["valid"],
        "wrong": wrong,
        "seconds": round(time.monotonic() - began, 1),
    }


def _call(client: openai.OpenAI, number: int, seed: int) -> str:
    function = {"name": "note", "description": "Note it.", "parameters": SCHEMAS[number]}
    more: dict[str, Any] = {
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
    }
    text, arguments = _answer(client, seed, more)
    return "text beside the call" if text else _verdict(arguments, number)


def _shaped(client: openai.OpenAI, number: int, seed: int) -> str:
    named = {"name": "answer", "schema": SCHEMAS[number], "strict": True}
    more = {"response_format": {"type": "json_schema", "json_schema": named}}
    text, _ = _answer(client, seed, more)
    return _verdict(text, number)


def _answer(client: openai.OpenAI, seed: int, more: dict[str, Any]) -> tuple[str, str]:
    """The text of an answer, and the arguments of its call."""
    chunks = client.chat.completions.create(
        model=EMBEDDED.name,
        messages=_ASK,  # type: ignore[arg-type]
        temperature=1.0,
        seed=seed,
        max_tokens=MAX_TOKENS,
        stream=seed % 2 == 1,
        **more,
    )
    text, arguments = "", ""
    for chunk in chunks if seed % 2 else [chunks]:
        for choice in chunk.choices:
            said = choice.delta if seed % 2 else choice.message
            text += said.content or ""
            for call in said.tool_calls or []:
                arguments += call.function.arguments
    return text, arguments


def _verdict(text: str, number: int) -> str:
    try:
        validate(json.loads(text), SCHEMAS[number])
    except json.JSONDecodeError:
        return "not JSON"
    except jsonschema.ValidationError:
        return "against the schema"
    return "valid"


def table(rows: list[dict[str, Any]]) -> str:
    """Write the rows as a table in Markdown."""
    lines = ["| engine | asked | valid | seconds |", "| --- | --- | --- | --- |"]
    for row in rows:
        valid = f"{row['valid']} of {row['asked']}"
        wrong = "".join(f", {number} {why}" for why, number in row["wrong"].items())
        lines.append(f"| {row['engine']} | {row['kind']} | {valid}{wrong} | {row['seconds']} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run it; the exit status tells whether all were valid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--count", type=int, default=100, help="of each kind, up to 100")
    parser.add_argument("--seed", type=int, default=1, help="says which, if not all")
    parser.add_argument("--engines", default="", help="only these, separated by commas")
    given = parser.parse_args()
    wanted = [name for name in given.engines.split(",") if name]
    rows: list[dict[str, Any]] = []
    with fleet(Path(os.environ.get("MODELS_DIR", ROOT / "models"))) as services:
        for name, service in services.items():
            if wanted and name not in wanted:
                continue
            rows += measure(name, service, given.count, given.seed)
            print(table(rows[-2:]), flush=True)
    if given.count == 100 and not wanted:
        (RESULTS / "forms.json").write_text(json.dumps(rows, indent=1) + "\n")
        (RESULTS / "forms.md").write_text(table(rows))
    return 0 if all(row["valid"] == row["asked"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
