"""Constant load on a real service while its processes are killed, stopped and starved at random.

make chaos
make chaos ARGS="--seconds 60 --seed 7"

Exit status 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench import report
from tests.chaos import verdict
from tests.chaos.run import run
from tests.service import ROOT


def main() -> int:
    """Run it; 0 when every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    asked = parser.parse_args()
    print(f"seed {asked.seed}, {asked.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        seen = run(asked.seed, asked.seconds, Path(folder))
    checks, figures = verdict.checks(seen), verdict.figures(seen)
    target = asked.results / f"chaos-{asked.seed}.json"
    report.write(target, {"seed": asked.seed, "seconds": asked.seconds}, figures, checks)
    for example in figures["examples"]:
        print(json.dumps(example))
    report.show(checks)
    print(f"seed {asked.seed}; written: {target}")
    return int(any(check.ok is False for check in checks))


if __name__ == "__main__":
    sys.exit(main())
