"""Fuzzing of parsers and protocols: a million executions of each target.

make fuzz-core ARGS="--executions 1000000 --seed 7"
make fuzz-core ARGS="--target relay"
"""

from __future__ import annotations

import argparse
import sys

from bench.progress import Progress, Step
from tests.fuzz.core.control import Control
from tests.fuzz.core.gguf import GGUF
from tests.fuzz.core.loop import Outcome, Target, fuzz
from tests.fuzz.core.relay import Relay
from tests.fuzz.core.requests import Requests

# To estimate durations.
PER_SECOND = 10_000

TARGETS: dict[str, type[Target]] = {each.name: each for each in (Requests, Relay, GGUF, Control)}


def main() -> int:
    """Run the targets; returns 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.core", description=__doc__)
    parser.add_argument(
        "--executions", type=int, default=1_000_000, help="number of executions of each target"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the random numbers")
    parser.add_argument(
        "--target", choices=sorted(TARGETS), action="append", help="run only this target"
    )
    arguments = parser.parse_args()
    names, executions = arguments.target or list(TARGETS), arguments.executions
    steps = [Step(name, executions / PER_SECOND, executions) for name in names]
    outcomes = []
    # Without a ticker: a target may take all memory that the process is allowed to have.
    with Progress(steps, ticker=False) as progress:
        for name in names:
            progress.next_step()
            outcomes.append(fuzz(TARGETS[name](), executions, arguments.seed, progress.set_round))
    for name, found in zip(names, outcomes, strict=True):
        print(_line(name, arguments.seed, found), flush=True)
    return int(any(found.failed for found in outcomes))


def _line(name: str, seed: int, found: Outcome) -> str:
    grown = found.growth / 2**20
    line = f"| {name} | {seed} | {found.executions:,} | {found.seconds:.0f} s | {grown:.0f} MiB |"
    if found.case is not None:
        line += f"\nfailed with {found.case!r}:\n{found.error}"
    return line


if __name__ == "__main__":
    sys.exit(main())
