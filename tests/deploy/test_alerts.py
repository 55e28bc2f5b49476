"""Each alert fires when its target is missed, and none does when all are just met."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import DEPLOY, program

RULES = DEPLOY / "prometheus" / "vllm-obtain-alerts.yml"
STEP = 15  # seconds between two samples


def rate(per_second: float) -> str:
    """A counter that grows for 40 minutes."""
    return f"0+{per_second * STEP}x160"


def level(value: float) -> str:
    """A gauge that stays for 40 minutes."""
    return f"{value}+0x160"


BUCKET = 'vllm_obtain_http_request_duration_seconds_bucket{route="/v1/chat/completions",le="%s"}'
INFERENCE = 'vllm_obtain_inference_requests_total{outcome="%s"}'
HTTP = 'vllm_obtain_http_requests_total{method="POST",status="%s"}'
MODEL = '{instance="a",model="m",engine="e"}'
UP = 'up{job="vllm-obtain",instance="%s"}'
LOAD = f"vllm_obtain_engine_load_seconds{MODEL}"
QUEUE = f"vllm_obtain_engine_queue{MODEL}"
TOKENS = f"vllm_obtain_generation_tokens_total{MODEL}"
HEALTHY = f"vllm_obtain_engine_healthy{MODEL}"
RESTARTS = f"vllm_obtain_engine_restarts_total{MODEL}"
CPU = 'vllm_obtain_system_cpu_percent{instance="a"}'
USED = 'vllm_obtain_system_memory_used_bytes{instance="a"}'

# A busy service that just meets every target.
BUSY = {
    UP % "a": level(1),
    UP % "b": level(1),
    BUCKET % "2.5": rate(50),
    BUCKET % "5.0": rate(96),
    BUCKET % "10.0": rate(100),
    BUCKET % "+Inf": rate(100),
    INFERENCE % "stop": rate(2.1),
    INFERENCE % "error": rate(0.02),
    HTTP % "200": rate(99.1),
    HTTP % "503": rate(0.9),
    TOKENS: rate(101),
    QUEUE: level(3),
    CPU: level(59),
    USED: level(69),
    'vllm_obtain_system_memory_total_bytes{instance="a"}': level(100),
    LOAD: level(9.9),
    HEALTHY: level(1),
    RESTARTS: "0+0x120 2+0x40",
}
NOTHING: dict[str, str] = {name: level(0) for name in (*BUSY,) if "total{" in name or "le=" in name}
# What is otherwise, and which alerts that makes.
CASES: dict[str, tuple[dict[str, str], set[str]]] = {
    "all targets are met": ({}, set()),
    "slow answers": ({BUCKET % "5.0": rate(94)}, {"ResponsesSlow"}),
    "few requests": (
        {INFERENCE % "stop": rate(1.9), INFERENCE % "error": rate(0.01)},
        {"ThroughputLow"},
    ),
    "few tokens": ({TOKENS: rate(99)}, {"TokensSlow"}),
    "few of both, and nobody waits": (
        {INFERENCE % "stop": rate(1), INFERENCE % "error": rate(0), TOKENS: rate(9)}
        | {QUEUE: level(0)},
        set(),
    ),
    "failed answers": ({HTTP % "503": rate(1.1)}, {"AnswersFail"}),
    "failed generations": ({INFERENCE % "error": rate(0.03)}, {"InferenceFails"}),
    "a busy processor": ({CPU: level(61)}, {"CpuBusy"}),
    "little memory": ({USED: level(71)}, {"MemoryShort"}),
    "a slow load": ({LOAD: "_x115 10.1+0x45"}, {"ModelLoadSlow"}),
    "a slow load of long ago": ({LOAD: level(10.1)}, set()),
    "one instance is gone": ({UP % "a": "1+0x100 0+0x60"}, {"InstanceDown"}),
    "all are gone": (
        {UP % "a": "1+0x100 0+0x60", UP % "b": level(0)},
        {"InstanceDown", "NoInstance"},
    ),
    "nobody is there": ({UP % "a": "_x160", UP % "b": "_x160"}, {"NoInstance"}),
    "a stuck engine": ({HEALTHY: level(0)}, {"EngineStuck"}),
    "crashes": ({RESTARTS: "0+0x120 3+0x40"}, {"EngineCrashes"}),
    "a quiet hour": (NOTHING | {QUEUE: level(0)}, set()),
}


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    promtool = program("promtool", "prometheus")
    cases = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{STEP}s",
        "tests": [case(name, *CASES[name]) for name in CASES],
    }
    (tmp_path / "cases.yml").write_text(yaml.safe_dump(cases))
    result = subprocess.run(
        [promtool, "test", "rules", str(tmp_path / "cases.yml")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def case(name: str, other: dict[str, str], firing: set[str]) -> dict[str, Any]:
    """A scenario in promtool's words."""
    series = [{"series": key, "values": value} for key, value in {**BUSY, **other}.items()]
    samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(firing)]
    return {
        "name": name,
        "interval": f"{STEP}s",
        "input_series": series,
        "promql_expr_test": [
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "32m",
                "exp_samples": samples,
            }
        ],
    }


def test_every_alert_has_a_case() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]
    assert sorted(alerts) == sorted({name for _, names in CASES.values() for name in names})
    for group in groups:
        for rule in group["rules"]:
            if "alert" in rule:
                assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]


@pytest.mark.parametrize(
    ("check", "name"), [("rules", RULES.name), ("config", "prometheus.yml")], ids=str
)
def test_promtool_accepts_the_files(check: str, name: str, tmp_path: Path) -> None:
    promtool = program("promtool", "prometheus")
    for path in (DEPLOY / "prometheus").glob("*.yml"):
        text = path.read_text().replace("/etc/prometheus", str(tmp_path))
        (tmp_path / path.name).write_text(text)
    (tmp_path / "vllm-obtain.key").write_text("key")
    result = subprocess.run(
        [promtool, "check", check, str(tmp_path / name)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
