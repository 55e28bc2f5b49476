"""Run the tests as `make test` does.

    python -m tests [fast] [arguments of pytest]

Tests marked `serial` assert times or load: they run after all others, one at a time. `fast` is for
each commit: it leaves out those, those that need an engine, and those marked `slow` or `deploy`. A
few tests that failed run once more, alone, because two workers and real engines compete for the
processors; the last lines name them. A run fails also when it leaves a process or a file behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil

from tests.service import ROOT

RUN = "VLLM_OBTAIN_TEST_RUN"
PARALLEL = ["-n", os.environ.get("JOBS", "2"), "--dist", "loadscope", "--no-loadscope-reorder"]
FAST = "not serial and not engine and not slow and not deploy"
TESTS = Path(__file__).parent
# What pytest exits with when no test was selected.
NONE_SELECTED = 5
SOME_FAILED = 1
# With more failures than this, the machine is not the reason.
MAX_RETRIES = 5
LAST_FAILED = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"


def main(arguments: list[str]) -> int:
    """Run both passes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests", add_help=False)
    parser.add_argument("-m", dest="marks")
    asked, rest = parser.parse_known_args(arguments)
    also = f" and ({asked.marks})" if asked.marks else ""
    if rest[:1] == ["fast"]:
        passes = [[*PARALLEL, "-m", f"{FAST}{also}", *rest[1:]]]
    else:
        # Without arguments, the serial pass imports only the modules that have such tests.
        alone = rest or [str(path) for path in sorted(TESTS.rglob("test_*.py")) if _is_serial(path)]
        passes = [[*PARALLEL, "-m", f"not serial{also}", *rest], ["-m", f"serial{also}", *alone]]
    before, began = changes(), time.monotonic()
    os.environ[RUN] = uuid.uuid4().hex
    # Each process that a test starts would compile the package again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    LAST_FAILED.unlink(missing_ok=True)
    statuses = [run_pytest(*each) for each in passes]
    retried = failed_tests() if {*statuses} <= {0, NONE_SELECTED, SOME_FAILED} else []
    if 0 < len(retried) <= MAX_RETRIES and run_pytest(*retried) == 0:
        print("failed, then passed alone:", *retried, sep="\n  ")
        statuses = [0 if status == SOME_FAILED else status for status in statuses]
    failures = []
    if 0 not in statuses or {*statuses} - {0, NONE_SELECTED}:
        failures.append(f"tests failed: pytest ended with {statuses}")
    failures += [f"a process was left: {command}" for command in processes()]
    failures += [f"git status changed: {line}" for line in sorted(changes() - before)]
    print(f"{time.monotonic() - began:.0f} s", *failures, sep="\n")
    return bool(failures)


def run_pytest(*arguments: str) -> int:
    """Run pytest; returns its exit status."""
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT).returncode


def failed_tests() -> list[str]:
    """The node ids of the tests that failed in all passes, from pytest's cache."""
    return sorted(json.loads(LAST_FAILED.read_text())) if LAST_FAILED.exists() else []


def _is_serial(path: Path) -> bool:
    return "pytest.mark.serial" in path.read_text()


def changes() -> set[str]:
    """The lines of `git status`; none where there is no repository."""
    command = ["git", "status", "--porcelain"]
    return set(
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    )


def processes() -> list[str]:
    """The commands of processes that this run started and that still run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get(RUN) == os.environ[RUN] and process.pid != os.getpid()
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
