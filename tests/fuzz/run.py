"""Runs schemathesis against a service and reads what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

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
) -> Outcome:
    """Send a service whatever its description allows, and what it does not.

    Args:
        service: one that has the embedded model.
        folder: for the files of the run.
        options: of schemathesis.
        timeout: seconds for all of it.
        unloads: how often the model may be unloaded.
        embedder: an embedding model of the service's, if it has one.
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
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
    )
    return Outcome(done.returncode != 0, done.stdout + done.stderr, _statuses(report))


def _statuses(report: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in report.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for exchange in recorder.get("interactions", {}).values():
            status = (exchange.get("response") or {}).get("status_code", "no answer")
            found[f"{recorder['label']} {status}"] += 1
    return found
