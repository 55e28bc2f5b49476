"""Property-based fuzzing of all routes against the OpenAPI schema: some 8,000 requests.

The requests go to a real service with the embedded model and an embedding model.

make fuzz
make fuzz ARGS="--seed 7 --examples 100"
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.progress import Progress, Step
from tests import minilm
from tests.fuzz.run import Outcome, fuzz, scenarios
from tests.service import ROOT, Service

MODEL = "smollm2-135m"
LEAST = 5000
SECONDS = 900
# Usual duration on two cores.
ESTIMATE = 150


def main() -> int:
    """Run the fuzzer; returns 0 if every response was correct."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of the random numbers")
    parser.add_argument(
        "--examples",
        type=int,
        default=25,
        help="requests per route, in addition to boundary values",
    )
    arguments = parser.parse_args()
    options = ("--max-examples", str(arguments.examples), "--seed", str(arguments.seed))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = _models(folder)
        with Service(["run.py", "--no-fetch"], folder, {"MODELS_DIR": str(models)}) as service:
            start = time.monotonic()
            step = Step(
                f"requests to all routes, seed {arguments.seed}", ESTIMATE, scenarios(service)
            )
            with Progress([step]) as progress:
                progress.next_step()
                found = fuzz(
                    service,
                    folder,
                    *options,
                    timeout=SECONDS,
                    embedder=minilm.NAME,
                    progress=progress,
                )
            seconds = time.monotonic() - start
            faults = [line for line in service.logged("errors.log") if line["level"] == "error"]
    print(found.output)
    for line in faults:
        print(line)
    print(_table(found))
    print(f"{found.cases} requests in {seconds:.0f} s, seed {arguments.seed}")
    return int(found.failed or bool(faults) or found.cases < LEAST)


def _models(folder: Path) -> Path:
    """Create a MODELS_DIR with the embedded model and an embedding model."""
    models = folder / "models"
    shutil.copytree(ROOT / "models" / MODEL, models / MODEL)
    minilm.place(models)
    return models


def _table(found: Outcome) -> str:
    rows = ["| route | responses by status |", "|---|---|"]
    for route in sorted({key.rpartition(" ")[0] for key in found.statuses}):
        counts = [
            f"{key.rpartition(' ')[2]}: {count}"
            for key, count in sorted(found.statuses.items())
            if key.rpartition(" ")[0] == route
        ]
        rows.append(f"| `{route}` | {', '.join(counts)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
