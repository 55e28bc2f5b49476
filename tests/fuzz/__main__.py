"""Some 8,000 requests over all routes, held to the description.

They go to a real service with the embedded model and an embedding model.

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

from tests import minilm
from tests.fuzz.run import Outcome, fuzz
from tests.service import ROOT, Service

MODEL = "smollm2-135m"
LEAST = 5000
SECONDS = 900


def main() -> int:
    """Run it; 0 when no answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=25, help="per route, besides the edges")
    asked = parser.parse_args()
    options = ("--max-examples", str(asked.examples), "--seed", str(asked.seed))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = _models(folder)
        with Service(["run.py", "--no-fetch"], folder, {"MODELS_DIR": str(models)}) as service:
            began = time.monotonic()
            found = fuzz(service, folder, *options, timeout=SECONDS, embedder=minilm.NAME)
            took = time.monotonic() - began
            faults = [line for line in service.logged("errors.log") if line["level"] == "error"]
    print(found.output)
    for line in faults:
        print(line)
    print(_table(found))
    print(f"{found.cases} requests in {took:.0f} s, seed {asked.seed}")
    return int(found.failed or bool(faults) or found.cases < LEAST)


def _models(folder: Path) -> Path:
    """A MODELS_DIR with the embedded model and an embedding model."""
    models = folder / "models"
    shutil.copytree(ROOT / "models" / MODEL, models / MODEL)
    minilm.place(models)
    return models


def _table(found: Outcome) -> str:
    rows = ["| route | answers by status |", "|---|---|"]
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
