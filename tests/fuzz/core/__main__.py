"""A million executions of everything that reads bytes of others.

make fuzz-core ARGS="--executions 1000000 --seed 7"
make fuzz-core ARGS="--target relay"
"""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.core.control import Control
from tests.fuzz.core.gguf import GGUF
from tests.fuzz.core.loop import Outcome, Target, fuzz
from tests.fuzz.core.relay import Relay
from tests.fuzz.core.requests import Requests

TARGETS: dict[str, type[Target]] = {each.name: each for each in (Requests, Relay, GGUF, Control)}


def main() -> int:
    """Run it; 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.core", description=__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000, help="of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    asked = parser.parse_args()
    outcomes = []
    for name in asked.target or TARGETS:
        found = fuzz(TARGETS[name](), asked.executions, asked.seed)
        print(_line(name, asked.seed, found), flush=True)
        outcomes.append(found)
    return int(any(found.failed for found in outcomes))


def _line(name: str, seed: int, found: Outcome) -> str:
    grown = found.growth / 2**20
    line = f"| {name} | {seed} | {found.executions:,} | {found.seconds:.0f} s | {grown:.0f} MiB |"
    if found.case is not None:
        line += f"\nfailed with {found.case!r}:\n{found.error}"
    return line


if __name__ == "__main__":
    sys.exit(main())
