"""The gateway's tax: one engine process, asked directly and through the gateway in turns.

Every request has a prompt of its own: a number, then the same words. So neither side profits
from what the engine remembers of the other's prompts; what all prompts share (the template's
beginning) is equally warm for both after the first round, which is not counted. The number is
spelled digit by digit in this model's vocabulary, so all prompts have the same length, and the
tokens that end an answer are forbidden, so all answers have.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import checks
from bench.adapters import TAP_LOG_VARIABLE
from bench.client import Outcome, Wave, post, wave
from bench.plan import Level, Plan
from bench.service import Service, megabytes, running
from bench.stats import median_interval, milliseconds, percentile
from vllm_obtain.catalogue import Catalogue, Model
from vllm_obtain.catalogue.embedded import EMBEDDED
from vllm_obtain.chat.prepare import prepare_chat
from vllm_obtain.chat.speaker import speaker
from vllm_obtain.engines.llama_cpp import LlamaCpp
from vllm_obtain.protocol.parse import parse_chat

SIDES = ("bare", "through")
WAVE_SECONDS = 120.0
# <|endoftext|> and <|im_end|> of the embedded model.
_NO_END = {"0": -100, "2": -100}
_numbers = itertools.count(100_000)


def measure(plan: Plan, models: Path) -> tuple[dict[str, Any], list[checks.Check]]:
    """Measure all levels.

    Args:
        plan: how much.
        models: the folder with the embedded model.

    Returns:
        The figures, and the verdicts.
    """
    model = Catalogue(models).find(EMBEDDED.name)
    settings = {
        "MODELS_DIR": str(models),
        "DEFAULT_MODEL": EMBEDDED.name,
        "MAX_CONCURRENT_REQUESTS": "200",
        "INFERENCE_ENGINE": "llama_cpp",
    }
    with running(EMBEDDED.name, settings) as service:
        levels = [_throughput(service, model, level, plan.stagger) for level in plan.levels]
        memory = megabytes(service.worker)
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        log = Path(place) / "tap.txt"
        settings |= {
            "INFERENCE_ENGINE": "tapped",
            "EXTRA_ENGINES": "tapped=bench.adapters:TappedLlamaCpp",
            TAP_LOG_VARIABLE: str(log),
        }
        with running(EMBEDDED.name, settings) as service:
            for figures, level in zip(levels, plan.levels, strict=True):
                figures |= _first_tokens(service, model, log, level, plan.stagger)
    verdicts = [check for level in levels for check in _verdicts(level)]
    weight = f"{memory['rss']:.0f} MB (its share {memory['pss']:.0f} MB)"
    verdicts.append(checks.told("memory of the worker after the tax", weight))
    return {"worker_mb": memory, "levels": levels}, verdicts


def _throughput(service: Service, model: Model, level: Level, stagger: float) -> dict[str, Any]:
    """Measure tokens per second; nothing but the gateway is between the client and the engine."""
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for side, _, seen in _turns(service, model, level, level.rounds, level.tokens, stagger):
        rates[side].append(seen.tokens_per_second)
    ratios = [b / a for a, b in zip(rates["bare"], rates["through"], strict=True)]
    low, high = median_interval(ratios)
    return {
        "streams": level.streams,
        "rounds": level.rounds,
        "tokens_per_request": level.tokens,
        "tokens_per_second": {side: round(statistics.median(rates[side]), 1) for side in SIDES},
        "ratios": [round(ratio, 4) for ratio in ratios],
        "ratio": {
            "median": round(statistics.median(ratios), 4),
            "low": round(low, 4),
            "high": round(high, 4),
        },
    }


def _first_tokens(
    service: Service, model: Model, log: Path, level: Level, stagger: float
) -> dict[str, Any]:
    """Measure times to first token, in front of an engine behind a tap."""
    waits: dict[str, list[float]] = {side: [] for side in SIDES}
    overheads: dict[str, list[float]] = {side: [] for side in SIDES}
    for side, asked, seen in _turns(
        service, model, level, level.waits, level.waits_tokens, stagger
    ):
        behind = _behind(log)
        waits[side] += [outcome.wait for outcome in seen.outcomes]
        overheads[side] += [
            outcome.wait - behind[who] for who, outcome in zip(asked, seen.outcomes, strict=True)
        ]
    added = {
        name: 1000 * (percentile(overheads["through"], at) - percentile(overheads["bare"], at))
        for name, at in (("p50", 0.50), ("p95", 0.95))
    }
    return {
        "first_token_rounds": level.waits,
        "first_token_ms": {side: milliseconds(waits[side]) for side in SIDES},
        "outside_engine_ms": {side: milliseconds(overheads[side]) for side in SIDES},
        "added_first_token_ms": {name: round(value, 2) for name, value in added.items()},
    }


def _turns(
    service: Service, model: Model, level: Level, rounds: int, tokens: int, stagger: float
) -> Iterator[tuple[str, list[int], Wave]]:
    """Ask both sides by turns, in the other order every round; the first round is not told."""
    for number in range(rounds + 1):
        for side in SIDES if number % 2 else reversed(SIDES):
            asked = [next(_numbers) for _ in range(level.streams)]
            seen = asyncio.run(_wave(service, model, side, asked, tokens, stagger))
            if number:
                yield side, asked, seen


async def _wave(
    service: Service, model: Model, side: str, asked: list[int], tokens: int, stagger: float
) -> Wave:
    address = service.engine if side == "bare" else service.gateway
    requests = [_request(model, side, number, tokens) for number in asked]
    async with asyncio.timeout(WAVE_SECONDS):
        seen = await wave(address, requests, stagger)
    wrong = [*seen.failures, *(_short(outcome, tokens) for outcome in seen.outcomes)]
    if any(wrong):
        raise RuntimeError(f"{side}, {len(asked)} streams: {next(filter(None, wrong))}")
    return seen


def _request(model: Model, side: str, number: int, tokens: int) -> bytes:
    body = {
        "model": EMBEDDED.name,
        "messages": [{"role": "user", "content": f"{number} Tell me a long story."}],
        "max_tokens": tokens,
        "temperature": 0,
        "logit_bias": _NO_END,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if side == "through":
        return post(body)
    typed = parse_chat(json.dumps(body).encode())
    task = prepare_chat(typed, speaker(model)).task
    adapter = LlamaCpp()
    return post(adapter.body(task, typed.token_limit), path=adapter.path(task))


def _short(outcome: Outcome, tokens: int) -> str:
    return "" if outcome.tokens == tokens else f"{outcome.tokens} tokens instead of {tokens}"


def _behind(log: Path) -> dict[int, float]:
    """Read what the tap noted: seconds to first text by the request's number."""
    lines = (line.split() for line in log.read_text().splitlines())
    return {int(number): float(seconds) for number, seconds in lines}


def _verdicts(level: dict[str, Any]) -> list[checks.Check]:
    ratio, added = level["ratio"], level["added_first_token_ms"]
    return [
        checks.ratio(level["streams"], ratio["median"], ratio["low"], ratio["high"]),
        checks.added(level["streams"], added["p50"], added["p95"]),
    ]
