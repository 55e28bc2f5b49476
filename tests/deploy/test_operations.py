"""docs/operations.md: its commands are run, with other places for the files, or named here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.deploy.tools import program
from tests.service import ROOT
from vllm_obtain.metrics import Numbers

GUIDE = (ROOT / "docs" / "operations.md").read_text()
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in _BLOCK.findall(GUIDE) for line in block.splitlines()]
BIN = Path(sys.executable).parent

# How a command begins that no test runs, and why.
NOT_RUN = {
    "sudo apt-get": "it changes the machine; .ci/run installs the same packages",
    "git clone": "the address is the reader's",
    "sudo /usr/bin/python3 -m venv": "make does the same, and takes minutes",
    "sudo /opt/vllm-obtain/bin/pip": "so does this",
    "sudo useradd": "it changes the machine",
    "sudo -u vllm-obtain /opt/vllm-obtain/bin/python": "make model does it",
    "sudo nginx -t": "nginx is started with the same files in tests/deploy/test_site.py",
    "sudo systemctl": "no systemd runs here; tests/deploy/test_under_systemd.py starts one",
    "sudo cp -r deploy/grafana": "there is no Grafana here",
    "sudo install -D": "nor is there here",
    "sudo /opt/vllm-obtain/bin/vllm-obtain service status": "with a made-up systemctl elsewhere",
}


def test_each_command_is_run_or_named_with_a_reason(tmp_path: Path) -> None:
    program("promtool", "prometheus")
    ran = [line for line in COMMANDS if not line.startswith(tuple(NOT_RUN))]
    assert len(ran) >= 8
    assert all(any(line.startswith(each) for line in COMMANDS) for each in NOT_RUN)
    for folder in ("service", "service-2", "etc/prometheus", "etc/nginx/conf.d"):
        (tmp_path / folder).mkdir(parents=True)
    script = "set -e\n" + "\n".join(adapted(line, tmp_path) for line in ran)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "KEYS_FILE": str(tmp_path / "service/keys.json")}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path / "service", env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, script + done.stdout + done.stderr
    key = (tmp_path / "service" / "prometheus.key").read_text()
    assert (tmp_path / "etc/prometheus/vllm-obtain.key").read_text() == key
    assert "ExecStart=" in done.stdout and "SUCCESS" in done.stdout


def adapted(line: str, place: Path) -> str:
    """The same command, without root, and below a folder of the test."""
    line = line.removeprefix("sudo -u vllm-obtain ").removeprefix("sudo ")
    line = re.sub(r"-o \S+ ", "", line).replace("deploy/", f"{ROOT}/deploy/")
    line = line.replace("/opt/vllm-obtain/bin/vllm-obtain", f"{BIN}/python -m vllm_obtain")
    line = line.replace("/var/lib/vllm-obtain", f"{place}/service")
    line = line.replace("/var/backups", f"{place}/backups")
    line = re.sub(r"(?<=\s)/etc/", f"{place}/etc/", line)
    if line.startswith("promtool"):
        # The file names the place of the key.
        here = f"{place}/etc/prometheus"
        line = f"sed -i 's#/etc/prometheus/#{here}/#' {here}/prometheus.yml; {line}"
    return line + " --print" if " service install " in line else line


def test_the_names_that_are_told_are_those_of_vllm() -> None:
    told = set(re.findall(r"`(vllm:\w+)`", GUIDE))
    families = {family.name: family.type for family in Numbers().registry.collect()}
    ours = {
        f"{name}_total" if kind == "counter" else name
        for name, kind in families.items()
        if name.startswith("vllm:")
    }
    gauges = {"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"}
    assert told == ours | gauges
