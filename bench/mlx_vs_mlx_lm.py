"""`python -m bench.mlx_vs_mlx_lm [--model FOLDER] [--gpu] [--quick]`: this MLX server and mlx-lm's.

Both serve the same model folder on this machine in turns. README.md describes the method, the
expectations and the results. Without --model, the embedded model is converted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import mlx_report
from bench.client import Address
from bench.mlx_load import Failed, body, send_long_prompt, wave
from bench.mlx_servers import Servers, start_servers
from bench.progress import Progress, Step
from bench.service import ROOT, NotStarted
from vllm_obtain.download.bundled_model import EMBEDDED


@dataclass(frozen=True)
class Plan:
    """Amount of work of a run.

    Args:
        streams: numbers of concurrent requests, one case each.
        rounds: rounds of each case, in addition to a warm-up round.
        filler: repetitions of the filler sentence in a prompt.
        tokens: completion tokens per request.
        seeded: streams of the sampling cases, without and with a seed in each request.
        seeded_tokens: completion tokens per request of these cases.
        running: streams during which the long prompt arrives.
        running_tokens: completion tokens of these streams; they must last longer than the prefill.
        long: repetitions of the filler sentence in the long prompt.
        long_rounds: rounds of this case.
    """

    streams: tuple[int, ...]
    rounds: int
    filler: int
    tokens: int
    seeded: int = 8
    seeded_tokens: int = 32
    running: int = 8
    running_tokens: int = 80
    long: int = 220
    long_rounds: int = 2


CPU = Plan((1, 8), rounds=2, filler=1, tokens=32, long_rounds=1)
GPU = Plan(
    (1, 8, 32),
    rounds=6,
    filler=10,
    tokens=128,
    seeded_tokens=48,
    running_tokens=150,
    long_rounds=13,
)
QUICK = Plan((1, 2), 1, 1, 4, 2, 4, running=2, running_tokens=30, long=20, long_rounds=1)
FILLER = "Tell me facts about number and history. "


def steps(plan: Plan) -> list[Step]:
    """List the steps of `Bench.measure`."""
    rounds = plan.rounds + 1
    return [
        *(Step(f"{n} streams", rounds * (5 + n), rounds) for n in plan.streams),
        Step(f"{plan.seeded} streams with sampling", rounds * (10 + plan.seeded), rounds),
        Step("long prompt during streams", 10 * (plan.long_rounds + 1), plan.long_rounds + 1),
    ]


class Bench:
    """Runs the measurements.

    Args:
        servers: the running servers.
        plan: amount of work.
        progress: shows the steps of `steps`.
    """

    def __init__(self, servers: Servers, plan: Plan, progress: Progress) -> None:
        self._servers = servers
        self._plan = plan
        self._progress = progress
        self._count = 0

    def measure(self) -> dict[str, Any]:
        """Run all cases."""
        figures: dict[str, Any] = {"streams": {}}
        for streams in self._plan.streams:
            figures["streams"][str(streams)] = self._case(streams)
        figures |= self._sampled()
        figures["long_prompt"] = self._long_prompt()
        return figures

    def _case(self, streams: int) -> dict[str, Any]:
        results = _Results()

        def loop() -> None:
            texts = self._texts(streams)
            rate = self._servers.library.tokens_per_second(texts, self._plan.tokens)
            results.add("library", "tokens_per_second", rate)

        self._alternate(
            self._plan.rounds, [*self._waves(results, streams, self._plan.tokens), loop], [results]
        )
        return results.figures()

    def _sampled(self) -> dict[str, Any]:
        """Sample without and with a seed in each request, in turns."""
        sampled, seeded = _Results(), _Results()
        size = self._plan.seeded, self._plan.seeded_tokens
        turns = [
            *self._waves(sampled, *size, temperature=1.0),
            *self._waves(seeded, *size, seeds=True, temperature=1.0),
        ]
        self._alternate(self._plan.rounds, turns, [sampled, seeded])
        figures = {"sampled": sampled.figures(), "seeded": seeded.figures()}
        figures["seeded"]["ratio"]["tokens_per_second_to_sampled"] = seeded.ratio_to(sampled)
        return figures

    def _waves(
        self, results: _Results, streams: int, tokens: int, seeds: bool = False, **parameters: Any
    ) -> list[Callable[[], None]]:
        """Build one round of concurrent requests for each server."""

        def run(side: str, address: Address) -> None:
            bodies = [
                body(text, tokens, **parameters, **({"seed": number} if seeds else {}))
                for number, text in enumerate(self._texts(streams))
            ]
            result = asyncio.run(wave(address, bodies))
            results.add(side, "tokens_per_second", result.tokens_per_second)
            results.add(
                side, "ttft_ms", 1000 * statistics.median(each.ttft for each in result.responses)
            )
            results.add(side, "max_ttft_ms", 1000 * max(each.ttft for each in result.responses))

        return self._for_both(run)

    def _long_prompt(self) -> dict[str, Any]:
        results = _Results()

        def run(side: str, address: Address) -> None:
            texts = self._texts(self._plan.running + 1)
            bodies = [body(text, self._plan.running_tokens) for text in texts[1:]]
            long = body(texts[0] + FILLER * self._plan.long, 4)
            pause, ttft = asyncio.run(send_long_prompt(address, bodies, long))
            results.add(side, "pause_ms", 1000 * pause)
            results.add(side, "ttft_ms", 1000 * ttft)

        self._alternate(self._plan.long_rounds, self._for_both(run), [results])
        return results.figures()

    def _alternate(
        self, rounds: int, actions: list[Callable[[], None]], results: list[_Results]
    ) -> None:
        """Run the actions in alternating order; the first round is a warm-up."""
        self._progress.next_step()
        for index in range(rounds + 1):
            self._progress.next_round()
            for action in actions if index % 2 else reversed(actions):
                action()
            if not index:
                for each in results:
                    each.clear()

    def _for_both(self, run: Callable[[str, Address], None]) -> list[Callable[[], None]]:
        return [
            lambda: run("own", self._servers.own),
            lambda: run("mlx_lm", self._servers.mlx_lm),
        ]

    def _texts(self, number: int) -> list[str]:
        """Build prompts with unique beginnings, so that they are in no prefix cache."""
        self._count += 1
        return [f"Request {self._count} {n}. " + FILLER * self._plan.filler for n in range(number)]


class _Results:
    """Results of each server by round."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}

    def add(self, side: str, name: str, value: float) -> None:
        self._values.setdefault(side, {}).setdefault(name, []).append(round(value, 2))

    def clear(self) -> None:
        self._values.clear()

    def ratio_to(self, other: _Results) -> float:
        """Compute the median ratio of this server's throughput to that of another case."""
        rates = (each._values["own"]["tokens_per_second"] for each in (self, other))
        return round(_ratio(*rates), 3)

    def figures(self) -> dict[str, Any]:
        """Compute medians, and the median ratios of this server to the others."""
        figures: dict[str, Any] = {
            side: {name: round(statistics.median(rounds), 2) for name, rounds in values.items()}
            for side, values in self._values.items()
        }
        own = self._values["own"]
        figures["ratio"] = {
            f"{name}_to_{side}": round(_ratio(own[name], values[name]), 3)
            for side, values in self._values.items()
            for name in values
            if side != "own"
        }
        return {**figures, "rounds": self._values}


def _ratio(own: list[float], others: list[float]) -> float:
    return statistics.median(a / max(b, 1e-9) for a, b in zip(own, others, strict=True))


@contextlib.contextmanager
def _converted_model(models: Path) -> Iterator[Path]:
    """Convert the embedded model to 32-bit floats for the duration of the block.

    This server converts weights automatically. With quantized weights, mlx-lm's server takes
    minutes for the first token on a CPU.
    """
    from vllm_obtain.models.convert.convert import convert

    with tempfile.TemporaryDirectory(prefix="mlx-model-") as temporary:
        source = Path(temporary) / "embedded" / EMBEDDED.path(models).name
        source.parent.mkdir()
        source.symlink_to(EMBEDDED.path(models))
        quantized, folder = (
            convert(source, "mlx", lambda _: None),
            Path(temporary) / "embedded-float32",
        )
        arguments = ["--hf-path", str(quantized), "--mlx-path", str(folder)]
        command = [
            sys.executable,
            "-m",
            "mlx_lm",
            "convert",
            *arguments,
            "-d",
            "--dtype",
            "float32",
        ]
        subprocess.run(command, check=True, capture_output=True)
        yield folder


def main() -> int:
    """Measure, print the table, write the files."""
    parser = argparse.ArgumentParser(prog="python -m bench.mlx_vs_mlx_lm", description=__doc__)
    parser.add_argument("--model", type=Path, help="model folder; default: the embedded model")
    parser.add_argument(
        "--gpu", action="store_true", help="up to 32 streams and longer completions"
    )
    parser.add_argument("--quick", action="store_true", help="run a short version, for a test")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else GPU if arguments.gpu else CPU
    name = "mlx_quick" if arguments.quick else "mlx_gpu" if arguments.gpu else "mlx_cpu"
    model = contextlib.nullcontext(arguments.model.absolute()) if arguments.model else None
    try:
        with (
            model or _converted_model(arguments.models) as folder,
            start_servers(folder) as servers,
            Progress(steps(plan)) as progress,
        ):
            figures = Bench(servers, plan, progress).measure()
            figures |= {"model": folder.name, "environment": sorted(servers.environment)}
    except (NotStarted, Failed, OSError, subprocess.SubprocessError) as error:
        print(f"The benchmark failed: {error or type(error).__name__}", file=sys.stderr)
        return 2
    checks = mlx_report.checks(figures, gpu=arguments.gpu)
    mlx_report.write(arguments.results / name, asdict(plan), figures, checks)
    return int(any(check.ok is False for check in checks))


if __name__ == "__main__":
    sys.exit(main())
