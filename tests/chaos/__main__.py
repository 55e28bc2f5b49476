"""Load on a real service while its processes are killed, stopped and deprived of CPU time.

make chaos
make chaos ARGS="--seconds 60 --seed 7"

Exit status 1 if a guarantee was broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench import report
from bench.progress import Progress, Step
from tests.chaos import verdict
from tests.chaos.run import WARM, run
from tests.service import ROOT


def main() -> int:
    """Run the test; returns 0 if every guarantee was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="order of the faults")
    parser.add_argument("--seconds", type=float, default=600, help="duration")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    arguments = parser.parse_args()
    steps = [Step(f"load and faults, seed {arguments.seed}", arguments.seconds + WARM)]
    with tempfile.TemporaryDirectory() as folder, Progress(steps) as progress:
        progress.next_step()
        result = run(arguments.seed, arguments.seconds, Path(folder), progress)
    checks, figures = verdict.checks(result), verdict.figures(result)
    target = arguments.results / f"chaos-{arguments.seed}.json"
    report.write(target, {"seed": arguments.seed, "seconds": arguments.seconds}, figures, checks)
    for example in figures["examples"]:
        print(json.dumps(example))
    report.show(checks)
    print(f"Seed {arguments.seed}. Results: {target}")
    return int(any(check.ok is False for check in checks))


if __name__ == "__main__":
    sys.exit(main())
