"""Runs schemathesis against a service and reads its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.progress import Progress
from tests.fuzz.strict import strict
from tests.service import ROOT, Service

# Some valid requests are refused all the same (unsupported_parameter), and not every 503 is a
# fault: checks of ours know when.
LEFT_OUT = "positive_data_acceptance,not_a_server_error"
# A model may be called `load`, so GET on these paths asks for it, and `Allow` says so.
CONFIG = """
max-stream-events = 10000

[[operations]]
include-path-regex = "^/v1/models/(load|unload|pull|pulls)$"
checks.allow_header_conformance.enabled = false
checks.unsupported_method.enabled = false

# Items may have null for what is left out, and no `type`; the description has the whole form.
[[operations]]
include-path = "/v1/responses"
checks.negative_data_rejection.enabled = false
"""


@dataclass
class Outcome:
    """What a run came to.

    Args:
        failed: whether an answer was wrong.
        output: what schemathesis printed.
        statuses: how many answers by route and status, such as `GET /health 200`.
    """

    failed: bool
    output: str
    statuses: Counter[str]

    @property
    def cases(self) -> int:
        """How many requests were made."""
        return self.statuses.total()


def fuzz(
    service: Service,
    folder: Path,
    *options: str,
    timeout: float,
    unloads: int = 10,
    embedder: str = "",
    progress: Progress | None = None,
) -> Outcome:
    """Send a service whatever its description allows, and what it does not.

    Args:
        service: one that has the embedded model.
        folder: for the files of the run.
        options: of schemathesis.
        timeout: seconds for all of it.
        unloads: how often the model may be unloaded.
        embedder: an embedding model of the service's, if it has one.
        progress: shows the finished scenarios as rounds, and the number of requests.
    """
    description = strict(service.json("/openapi.json"))
    (folder / "openapi.json").write_text(json.dumps(description))
    (folder / "schemathesis.toml").write_text(CONFIG)
    report = folder / "report.ndjson"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", str(folder / "openapi.json")),
        *("--url", service.url, "--exclude-checks", LEFT_OUT, "--continue-on-failure"),
        *("--report", "ndjson", "--report-ndjson-path", str(report), "--no-color"),
        *("--suppress-health-check", "all", "--warnings", "off", "--request-timeout", "60"),
        *options,
    ]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks",
        "PYTHONPATH": str(ROOT),
        "FUZZ_UNLOADS": str(unloads),
        **({"FUZZ_EMBEDDER": embedder} if embedder else {}),
    }
    output = folder / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            _wait(process, report, timeout, progress)
        finally:
            process.kill()
            process.wait()
    return Outcome(process.returncode != 0, output.read_text(), _statuses(report))


def scenarios(service: Service) -> int:
    """Estimate the number of scenarios of a run: one per operation in each of three phases."""
    paths = service.json("/openapi.json")["paths"]
    return 3 * sum(len(item) for item in paths.values())


def _wait(
    process: subprocess.Popen[bytes], report: Path, timeout: float, progress: Progress | None
) -> None:
    """Wait until the run ends, and show its progress."""
    deadline = time.monotonic() + timeout
    finished = requests = position = 0
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise subprocess.TimeoutExpired(process.args, timeout)
        time.sleep(0.5)
        if progress is None or not report.exists():
            continue
        with report.open("rb") as file:
            file.seek(position)
            # The last line may be incomplete.
            complete, found, _ = file.read().rpartition(b"\n")
        position += len(complete) + len(found)
        for line in complete.splitlines():
            scenario = json.loads(line).get("ScenarioFinished")
            if scenario is not None:
                finished += 1
                requests += len(scenario.get("recorder", {}).get("interactions", {}))
        progress.set_detail(f"{requests:,} requests")
        progress.set_round(finished + 1)


def _statuses(report: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in report.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for exchange in recorder.get("interactions", {}).values():
            status = (exchange.get("response") or {}).get("status_code", "no answer")
            found[f"{recorder['label']} {status}"] += 1
    return found
