"""docs/operations.md: every block of commands runs, adapted to a temporary folder, or is marked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.deploy.tools import program
from tests.service import ROOT
from vllm_obtain.metrics.registry import MetricsRegistry

GUIDE = (ROOT / "docs" / "operations.md").read_text()
# A block that no test runs follows a comment with the reason.
_BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(marker, code) for marker, code in _BLOCK.findall(GUIDE)]
BIN = Path(sys.executable).parent


def test_each_block_runs_or_is_marked_with_a_reason(tmp_path: Path) -> None:
    program("promtool", "prometheus")
    assert any(marker for marker, _ in BLOCKS)
    commands = [line for marker, code in BLOCKS if not marker for line in code.splitlines()]
    assert len(commands) >= 10
    for folder in ("service/models", "etc/prometheus", "etc/nginx/conf.d"):
        (tmp_path / folder).mkdir(parents=True)
    script = "set -e\n" + "\n".join(adapt(line, tmp_path) for line in commands)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "KEYS_FILE": str(tmp_path / "service/keys.json")}
    result = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path / "service", env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, script + result.stdout + result.stderr
    key = (tmp_path / "service" / "prometheus.key").read_text()
    assert (tmp_path / "etc/prometheus/vllm-obtain.key").read_text() == key
    assert "ExecStart=" in result.stdout and "SUCCESS" in result.stdout


def test_no_marker_is_far_from_its_block() -> None:
    assert GUIDE.count("<!-- not run: ") == sum(bool(marker) for marker, _ in BLOCKS)


def adapt(line: str, folder: Path) -> str:
    """Rewrite a command so that it needs no root and writes to a temporary folder only."""
    line = line.removeprefix("sudo -u vllm-obtain ").removeprefix("sudo ")
    line = re.sub(r"-o \S+ ", "", line).replace("deploy/", f"{ROOT}/deploy/")
    line = line.replace("/opt/vllm-obtain/bin/vllm-obtain", f"{BIN}/python -m vllm_obtain")
    line = line.replace("/var/lib/vllm-obtain", f"{folder}/service")
    line = line.replace("/var/backups", f"{folder}/backups")
    line = re.sub(r"(?<=\s)/etc/", f"{folder}/etc/", line)
    if line.startswith("promtool"):
        # The configuration names the path of the key.
        etc = f"{folder}/etc/prometheus"
        line = f"sed -i 's#/etc/prometheus/#{etc}/#' {etc}/prometheus.yml; {line}"
    return line + " --print" if " service install " in line else line


def test_the_metrics_of_the_guide_are_those_of_the_service() -> None:
    documented = set(re.findall(r"`(vllm:\w+)`", GUIDE))
    families = {family.name: family.type for family in MetricsRegistry().registry.collect()}
    exported = {
        f"{name}_total" if kind == "counter" else name
        for name, kind in families.items()
        if name.startswith("vllm:")
    }
    gauges = {"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"}
    assert documented == exported | gauges
