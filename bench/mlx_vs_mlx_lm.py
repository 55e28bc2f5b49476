"""`python -m bench.mlx_vs_mlx_lm [--model FOLDER] [--gpu] [--quick]`: our MLX server and mlx-lm's.

Both serve the same model folder on this machine and take turns; README.md says what is measured,
what was expected, and why it came out otherwise. Without a model: the embedded one, converted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import mlx_report
from bench.client import Address
from bench.mlx_load import Failed, body, intrude, wave
from bench.mlx_sides import Sides, running
from bench.service import ROOT, NotStarted
from vllm_obtain.catalogue.embedded import EMBEDDED

_BEGAN = time.monotonic()


@dataclass(frozen=True)
class Plan:
    """What one run does.

    Args:
        streams: how many requests come at once, one case each.
        rounds: how often each side does each case; the first one more is not counted.
        filler: how often the filling sentence is repeated in a prompt.
        tokens: of each answer.
        seeded: streams of the cases that draw, without and with a seed in each request.
        seeded_tokens: of each of their answers.
        running: streams into which the long prompt comes.
        running_tokens: of each of their answers; they must outlive the prompt.
        long: how often the filling sentence is repeated in the long prompt.
        intrusions: rounds of that case.
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
    intrusions: int = 2


CPU = Plan((1, 8), rounds=2, filler=1, tokens=32, intrusions=1)
GPU = Plan(
    (1, 8, 32),
    rounds=6,
    filler=10,
    tokens=128,
    seeded_tokens=48,
    running_tokens=150,
    intrusions=13,
)
QUICK = Plan((1, 2), 1, 1, 4, 2, 4, running=2, running_tokens=30, long=20, intrusions=1)
FILLER = "Tell me facts about number and history. "


class Bench:
    """Takes the measurements.

    Args:
        sides: what is measured.
        plan: how much.
    """

    def __init__(self, sides: Sides, plan: Plan) -> None:
        self._sides = sides
        self._plan = plan
        self._count = 0

    def measure(self) -> dict[str, Any]:
        """Do all cases."""
        figures: dict[str, Any] = {"streams": {}}
        for streams in self._plan.streams:
            _say(f"{streams} streams")
            figures["streams"][str(streams)] = self._case(streams)
        _say(f"{self._plan.seeded} streams, drawn, without and with a seed in each request")
        figures |= self._drawn()
        _say("a long prompt among running streams")
        figures["intrusion"] = self._intrusion()
        return figures

    def _case(self, streams: int) -> dict[str, Any]:
        seen = _Seen()

        def loop() -> None:
            texts = self._texts(streams)
            rate = self._sides.library.tokens_per_second(texts, self._plan.tokens)
            seen.note("library", "tokens_per_second", rate)

        _take_turns(
            self._plan.rounds, [*self._waves(seen, streams, self._plan.tokens), loop], [seen]
        )
        return seen.figures()

    def _drawn(self) -> dict[str, Any]:
        """Draw without and with a seed in each request, these two by turns too."""
        drawn, seeded = _Seen(), _Seen()
        size = self._plan.seeded, self._plan.seeded_tokens
        turns = [
            *self._waves(drawn, *size, temperature=1.0),
            *self._waves(seeded, *size, seeds=True, temperature=1.0),
        ]
        _take_turns(self._plan.rounds, turns, [drawn, seeded])
        figures = {"drawn": drawn.figures(), "seeded": seeded.figures()}
        figures["seeded"]["ratio"]["tokens_per_second_to_drawn"] = seeded.to(drawn)
        return figures

    def _waves(
        self, seen: _Seen, streams: int, tokens: int, seeds: bool = False, **rules: Any
    ) -> list[Callable[[], None]]:
        """Make a turn for each server: so many requests at once."""

        def serve(side: str, address: Address) -> None:
            bodies = [
                body(text, tokens, **rules, **({"seed": number} if seeds else {}))
                for number, text in enumerate(self._texts(streams))
            ]
            done = asyncio.run(wave(address, bodies))
            seen.note(side, "tokens_per_second", done.tokens_per_second)
            seen.note(side, "first_ms", 1000 * statistics.median(a.wait for a in done.answers))
            seen.note(side, "last_first_ms", 1000 * max(a.wait for a in done.answers))

        return self._for_both(serve)

    def _intrusion(self) -> dict[str, Any]:
        seen = _Seen()

        def serve(side: str, address: Address) -> None:
            texts = self._texts(self._plan.running + 1)
            bodies = [body(text, self._plan.running_tokens) for text in texts[1:]]
            long = body(texts[0] + FILLER * self._plan.long, 4)
            gap, wait = asyncio.run(intrude(address, bodies, long))
            seen.note(side, "gap_ms", 1000 * gap)
            seen.note(side, "first_ms", 1000 * wait)

        _take_turns(self._plan.intrusions, self._for_both(serve), [seen])
        return seen.figures()

    def _for_both(self, serve: Callable[[str, Address], None]) -> list[Callable[[], None]]:
        return [
            lambda: serve("ours", self._sides.ours),
            lambda: serve("theirs", self._sides.theirs),
        ]

    def _texts(self, number: int) -> list[str]:
        """Write prompts that nobody has seen: their beginnings differ from all before."""
        self._count += 1
        return [f"Request {self._count} {n}. " + FILLER * self._plan.filler for n in range(number)]


class _Seen:
    """What was seen of each side, round by round."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}

    def note(self, side: str, name: str, value: float) -> None:
        self._values.setdefault(side, {}).setdefault(name, []).append(round(value, 2))

    def clear(self) -> None:
        self._values.clear()

    def to(self, other: _Seen) -> float:
        """Work out the median of the rounds' ratios of our rates to those of another case."""
        rates = (seen._values["ours"]["tokens_per_second"] for seen in (self, other))
        return round(_ratio(*rates), 3)

    def figures(self) -> dict[str, Any]:
        """Medians, and the medians of the rounds' ratios of ours to each other side."""
        told: dict[str, Any] = {
            side: {name: round(statistics.median(seen), 2) for name, seen in values.items()}
            for side, values in self._values.items()
        }
        ours = self._values["ours"]
        told["ratio"] = {
            f"{name}_to_{side}": round(_ratio(ours[name], values[name]), 3)
            for side, values in self._values.items()
            for name in values
            if side != "ours"
        }
        _say(str(told["ratio"]))
        return {**told, "rounds": self._values}


def _take_turns(number: int, turns: list[Callable[[], None]], seen: list[_Seen]) -> None:
    """Let all take turns, by turns in the other order; the first round is for warmth."""
    for count in range(number + 1):
        for turn in turns if count % 2 else reversed(turns):
            turn()
        if not count:
            for one in seen:
                one.clear()


def _ratio(ours: list[float], others: list[float]) -> float:
    return statistics.median(a / max(b, 1e-9) for a, b in zip(ours, others, strict=True))


@contextlib.contextmanager
def _embedded(models: Path) -> Iterator[Path]:
    """Convert the embedded model, for as long as it is needed, to floats of 32 bits.

    Our server turns weights into those by itself; mlx-lm's, with quantised ones, takes minutes for
    the first token of a processor, and there would be nothing to compare.
    """
    from vllm_obtain.catalogue.convert.run import convert

    with tempfile.TemporaryDirectory(prefix="mlx-model-") as place:
        source = Path(place) / "embedded" / EMBEDDED.path(models).name
        source.parent.mkdir()
        source.symlink_to(EMBEDDED.path(models))
        quantised, folder = convert(source, "mlx", lambda _: None), Path(place) / "embedded-float32"
        named = ["--hf-path", str(quantised), "--mlx-path", str(folder)]
        command = [sys.executable, "-m", "mlx_lm", "convert", *named, "-d", "--dtype", "float32"]
        subprocess.run(command, check=True, capture_output=True)
        yield folder


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.mlx_vs_mlx_lm", description=__doc__)
    parser.add_argument("--model", type=Path, help="a folder; without it the embedded model")
    parser.add_argument("--gpu", action="store_true", help="32 streams too, and longer answers")
    parser.add_argument("--quick", action="store_true", help="little of everything, for a test")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    plan = QUICK if asked.quick else GPU if asked.gpu else CPU
    name = "mlx_quick" if asked.quick else "mlx_gpu" if asked.gpu else "mlx_cpu"
    model = contextlib.nullcontext(asked.model.absolute()) if asked.model else None
    try:
        with model or _embedded(asked.models) as folder, running(folder) as sides:
            figures = Bench(sides, plan).measure()
            figures |= {"model": folder.name, "environment": sorted(sides.environment)}
    except (NotStarted, Failed, OSError, subprocess.SubprocessError) as error:
        print(f"The benchmark broke off: {error or type(error).__name__}", file=sys.stderr)
        return 2
    checks = mlx_report.checks(figures, gpu=asked.gpu)
    mlx_report.write(asked.results / name, asdict(plan), figures, checks)
    return int(any(check.ok is False for check in checks))


def _say(text: str) -> None:
    print(f"[{time.monotonic() - _BEGAN:4.0f} s] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
