"""Instances behind nginx, watched by Prometheus: what the files under deploy/ promise."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import time

import psutil

from tests.deploy.conftest import Site
from tests.deploy.load import HEADERS, Clients, ask
from tests.deploy.tools import DEPLOY, get
from tests.service import Service
from tests.waiting import eventually, wait_for_exit

SILENCE = 5.0  # fail_timeout


def was_used(line: str, service: Service) -> bool:
    """Whether nginx asked that instance for the request of a line of its log."""
    return f":{service.port}" in line


def test_streams_are_not_held_back(site: Site) -> None:
    ended = ask(site.nginx.port, stream=True)
    assert ended.whole
    pauses = [b - a for a, b in zip(ended.stamps, ended.stamps[1:], strict=False)]
    assert len(pauses) >= 10, "an engine's token is a piece of its own"
    assert sorted(pauses)[len(pauses) // 2] > 0.015, "as far apart as the engine makes them"


def test_all_instances_are_used(site: Site) -> None:
    before = len(site.nginx.lines())
    with Clients(site.nginx.port, 6) as crowd:
        eventually(lambda: len(crowd.ended) >= 12)
    assert all(ended.whole for ended in crowd.ended)
    lines = site.nginx.lines()[before:]
    assert all(any(was_used(line, service) for line in lines) for service in site.services)


def test_a_client_and_its_request_are_told(site: Site) -> None:
    line = http.client.HTTPConnection("127.0.0.1", site.nginx.port)
    line.request("GET", "/v1/models", headers={**HEADERS, "X-Forwarded-For": "192.0.2.7"})
    answer = line.getresponse()
    assert answer.status == 200
    given = answer.headers["x-request-id"]
    # nginx writes its line when the answer is out.
    eventually(lambda: any(given in each for each in site.nginx.lines()), timeout=5)

    def logged() -> list[str]:
        lines = [entry for each in site.services for entry in each.logged("api_requests.log")]
        return [entry["client"] for entry in lines if entry.get("request_id") == given]

    assert eventually(logged) == ["192.0.2.7"]


def test_what_nginx_says_itself_has_our_shape(site: Site) -> None:
    line = http.client.HTTPConnection("127.0.0.1", site.nginx.port)
    head = {**HEADERS, "Content-Length": str(65 * 2**20)}
    line.request("POST", "/v1/completions", headers=head)
    answer = line.getresponse()
    error = json.loads(answer.read())["error"]
    assert (answer.status, error["code"]) == (413, "request_too_large")
    assert set(error) == {"message", "type", "param", "code"}
    assert get(site.nginx.port, "/metrics")[0] == 404


def test_prometheus_finds_everything_that_is_asked_of_it(site: Site) -> None:
    told = {each.port for each in site.services}

    def found() -> bool:
        up = site.prometheus.query('up{job="vllm-obtain"} == 1')
        return {int(labels["instance"].rpartition(":")[2]) for labels, _ in up} == told

    eventually(found)
    with Clients(site.nginx.port, 3):
        eventually(lambda: site.prometheus.query("vllm_obtain:tokens:rate5m > 0"), timeout=20)
        eventually(lambda: site.prometheus.query("vllm_obtain:response_seconds:p95_5m"))
    rules = [rule for group in site.prometheus.api("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    numbers = set(site.prometheus.api("label/__name__/values"))
    named = set(re.findall(r"\b(?:vllm_obtain_|vllm_obtain:|vllm:)[\w:]+", _expressions()))
    assert named and named <= numbers, named - numbers


def test_each_panel_shows_something(site: Site) -> None:
    board = json.loads((DEPLOY / "grafana" / "vllm-obtain.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(asked) > len(panels) > 8
    for expression in asked:
        plain = expression.replace("$__rate_interval", "1m")
        plain = plain.replace("$instance", ".*").replace("$model", ".*")
        assert "$" not in plain
        assert site.prometheus.query(plain), expression


def _expressions() -> str:
    """All that is asked of Prometheus, in rules and panels."""
    rules = (DEPLOY / "prometheus" / "vllm-obtain-alerts.yml").read_text()
    return rules + (DEPLOY / "grafana" / "vllm-obtain.json").read_text()


def test_the_end_of_an_instance_costs_no_request_that_was_not_begun(site: Site) -> None:
    dead = site.services[0]
    with Clients(site.nginx.port, 12) as crowd:
        eventually(lambda: len(crowd.ended) >= 12, timeout=20)
        processes = dead.processes()
        assert len(processes) >= 4, "master, worker, supervisor, guard or engine"
        before = len(site.nginx.lines())
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # an engine ends with its guard
                process.kill()
        assert not wait_for_exit(processes, 5)
        known = len(crowd.ended)
        eventually(lambda: len(crowd.ended) >= known + 24, timeout=20)
    lost = [ended for ended in crowd.ended if not ended.whole]
    assert [ended for ended in lost if not (ended.stream and ended.begun)] == []
    lines = site.nginx.lines()[before:]
    again = [line for line in lines if re.search(rf"from 127.0.0.1:{dead.port}, ", line)]
    assert again, "some were asked again of another instance"
    refused = [line for line in lines if line.count(f":{dead.port}") and line not in again]
    assert len(refused) <= 12, "no more than what it had begun"


def test_prometheus_shows_it(site: Site) -> None:
    dead = site.services[0]
    eventually(lambda: site.prometheus.alerts().get("InstanceDown") == "firing", timeout=20)
    assert "NoInstance" not in site.prometheus.alerts()
    ((labels, _),) = site.prometheus.query('up{job="vllm-obtain"} == 0')
    assert labels["instance"] == f"127.0.0.1:{dead.port}"


def test_it_leaves_the_rotation_and_comes_back(site: Site) -> None:
    dead = site.services[0]
    assert ask(site.nginx.port, stream=False).whole
    began, before = time.monotonic(), len(site.nginx.lines())
    for _ in range(10):
        get(site.nginx.port, "/health")
    asked = [line for line in site.nginx.lines()[before:] if was_used(line, dead)]
    assert time.monotonic() - began < SILENCE
    assert len(asked) <= 1, "one at most, to see whether it is there again"
    dead.kill_everything()
    dead.start()

    def back() -> bool:
        before = len(site.nginx.lines())
        get(site.nginx.port, "/health")
        return any(f"from 127.0.0.1:{dead.port} (200)" in x for x in site.nginx.lines()[before:])

    eventually(back, timeout=SILENCE + 10, interval=0.2)
    eventually(lambda: "InstanceDown" not in site.prometheus.alerts(), timeout=20)


def test_a_model_that_nobody_can_load_harms_nobody_else(site: Site) -> None:
    before = len(site.nginx.lines())
    for _ in range(3):
        broken = ask(site.nginx.port, stream=False, model="broken")
        assert broken.status == 503 and b"model_load_failed" in broken.body
        assert ask(site.nginx.port, stream=False).whole
    tries = max(line.rpartition("(")[2].count("503") for line in site.nginx.lines()[before:])
    assert tries > 1, "a 503 is not the last word of nginx"
