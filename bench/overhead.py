"""Gateway overhead: requests to one engine process, in turns directly and through the gateway.

Every request has its own prompt: a number, followed by the same words. So neither side finds
prompts of the other in the engine's prefix cache. The common beginning (of the template) is cached
for both after the first round, which does not count. The number is spelled digit by digit in the
vocabulary of this model, so all prompts have the same length. The end-of-text tokens are forbidden,
so all completions have the same length too.
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
from bench.adapters import TIMING_LOG_VARIABLE
from bench.client import Outcome, Wave, post, wave
from bench.plan import Level, Plan
from bench.progress import Progress, Step
from bench.service import Service, megabytes, start_service
from bench.stats import median_interval, milliseconds, percentile
from vllm_obtain.chat.chat_format import chat_format
from vllm_obtain.chat.prepare import prepare_chat
from vllm_obtain.download.bundled_model import EMBEDDED
from vllm_obtain.engines.llama_cpp.adapter import LlamaCpp
from vllm_obtain.models import Model, ModelCatalog
from vllm_obtain.protocol.parsing import parse_chat
from vllm_obtain.protocol.requests import used_parameters
from vllm_obtain.protocol.sampling_params import SamplingParams

SIDES = ("direct", "gateway")
WAVE_SECONDS = 120.0
# <|endoftext|> and <|im_end|> of the embedded model.
_NO_END = {"0": -100, "2": -100}
# Tokens per second on two cores, to estimate durations.
_RATES = {1: 125, 16: 190, 64: 150}
_numbers = itertools.count(100_000)


def steps(plan: Plan) -> list[Step]:
    """List the steps of `measure`."""
    return [
        *(_step("throughput", each, each.rounds, each.tokens) for each in plan.levels),
        *(_step("TTFT", each, each.ttft_rounds, each.ttft_tokens) for each in plan.levels),
    ]


def _step(metric: str, level: Level, rounds: int, tokens: int) -> Step:
    seconds = (rounds + 1) * len(SIDES) * level.streams * (tokens + 8) / _RATES[level.streams]
    streams = f"{level.streams} stream{'s' * (level.streams > 1)}"
    return Step(f"overhead, {metric}, {streams}", seconds, rounds + 1)


def measure(
    plan: Plan, models: Path, progress: Progress
) -> tuple[dict[str, Any], list[checks.Check]]:
    """Measure all levels.

    Args:
        plan: amount of work.
        models: folder with the embedded model.
        progress: shows the steps of `steps`.

    Returns:
        The figures and the checks.
    """
    model = ModelCatalog(models).find(EMBEDDED.name)
    settings = {
        "MODELS_DIR": str(models),
        "DEFAULT_MODEL": EMBEDDED.name,
        "MAX_CONCURRENT_REQUESTS": "200",
        "INFERENCE_ENGINE": "llama_cpp",
    }
    with start_service(EMBEDDED.name, settings) as service:
        side_by_side = Comparison(service, model, plan.stagger, progress)
        levels = [side_by_side.throughput(level) for level in plan.levels]
        memory = megabytes(service.worker)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder) / "timing.txt"
        settings |= {
            "INFERENCE_ENGINE": "timed",
            "EXTRA_ENGINES": "timed=bench.adapters:TimedLlamaCpp",
            TIMING_LOG_VARIABLE: str(log),
        }
        with start_service(EMBEDDED.name, settings) as service:
            side_by_side = Comparison(service, model, plan.stagger, progress)
            for figures, level in zip(levels, plan.levels, strict=True):
                figures |= side_by_side.ttft(level, log)
    verdicts = [check for level in levels for check in _verdicts(level)]
    size = f"{memory['rss']:.0f} MB (PSS {memory['pss']:.0f} MB)"
    verdicts.append(checks.figure("worker memory after the overhead measurement", size))
    return {"worker_mb": memory, "levels": levels}, verdicts


class Comparison:
    """Sends the same load to the engine and to the gateway.

    Args:
        service: a service with the engine.
        model: its model.
        stagger: seconds between the arrivals of a round's requests.
        progress: shows the rounds.
    """

    def __init__(self, service: Service, model: Model, stagger: float, progress: Progress) -> None:
        self._service = service
        self._model = model
        self._stagger = stagger
        self._progress = progress

    def throughput(self, level: Level) -> dict[str, Any]:
        """Measure tokens per second, without the timing proxy."""
        rates: dict[str, list[float]] = {side: [] for side in SIDES}
        for side, _, result in self._rounds(level.streams, level.rounds, level.tokens):
            rates[side].append(result.tokens_per_second)
        pairs = zip(rates["direct"], rates["gateway"], strict=True)
        ratios = [gateway / direct for direct, gateway in pairs]
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

    def ttft(self, level: Level, log: Path) -> dict[str, Any]:
        """Measure TTFT, with the engine behind the timing proxy.

        Args:
            level: number of streams and rounds.
            log: file of the timing proxy.
        """
        ttft: dict[str, list[float]] = {side: [] for side in SIDES}
        overheads: dict[str, list[float]] = {side: [] for side in SIDES}
        for side, numbers, result in self._rounds(
            level.streams, level.ttft_rounds, level.ttft_tokens
        ):
            engine = _engine_ttft(log)
            ttft[side] += [outcome.ttft for outcome in result.outcomes]
            overheads[side] += [
                outcome.ttft - engine[number]
                for number, outcome in zip(numbers, result.outcomes, strict=True)
            ]
        added = {
            name: 1000
            * (percentile(overheads["gateway"], at) - percentile(overheads["direct"], at))
            for name, at in (("p50", 0.50), ("p95", 0.95))
        }
        return {
            "ttft_rounds": level.ttft_rounds,
            "ttft_ms": {side: milliseconds(ttft[side]) for side in SIDES},
            "outside_engine_ms": {side: milliseconds(overheads[side]) for side in SIDES},
            "added_ttft_ms": {name: round(value, 2) for name, value in added.items()},
        }

    def _rounds(
        self, streams: int, rounds: int, tokens: int
    ) -> Iterator[tuple[str, list[int], Wave]]:
        """Send requests to both sides in alternating order; the first round does not count."""
        self._progress.next_step()
        for index in range(rounds + 1):
            self._progress.next_round()
            for side in SIDES if index % 2 else reversed(SIDES):
                numbers = [next(_numbers) for _ in range(streams)]
                result = asyncio.run(self._wave(side, numbers, tokens))
                if index:
                    yield side, numbers, result

    async def _wave(self, side: str, numbers: list[int], tokens: int) -> Wave:
        address = self._service.engine if side == "direct" else self._service.gateway
        requests = [_request(self._model, side, number, tokens) for number in numbers]
        async with asyncio.timeout(WAVE_SECONDS):
            result = await wave(address, requests, self._stagger)
        errors = [*result.failures, *(_length_error(each, tokens) for each in result.outcomes)]
        if any(errors):
            raise RuntimeError(f"{side}, {len(numbers)} streams: {next(filter(None, errors))}")
        return result


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
    if side == "gateway":
        return post(body)
    chat = parse_chat(json.dumps(body).encode())
    params = SamplingParams.resolve(used_parameters(chat))
    task = prepare_chat(chat, params, chat_format(model)).request
    adapter = LlamaCpp()
    return post(adapter.body(task, params.max_tokens), path=adapter.path(task))


def _length_error(outcome: Outcome, tokens: int) -> str:
    return "" if outcome.tokens == tokens else f"{outcome.tokens} tokens instead of {tokens}"


def _engine_ttft(log: Path) -> dict[int, float]:
    """Read the log of the timing proxy: TTFT in seconds by request number."""
    lines = (line.split() for line in log.read_text().splitlines())
    return {int(number): float(seconds) for number, seconds in lines}


def _verdicts(level: dict[str, Any]) -> list[checks.Check]:
    ratio, added = level["ratio"], level["added_ttft_ms"]
    return [
        checks.ratio(level["streams"], ratio["median"], ratio["low"], ratio["high"]),
        checks.check_added_ttft(level["streams"], added["p50"], added["p95"]),
    ]
