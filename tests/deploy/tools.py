"""nginx and Prometheus with the files of this repository, and how tests ask them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.service import ROOT
from tests.waiting import eventually

DEPLOY = ROOT / "deploy"
_PLACES = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"

_MAIN = """
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include conf.d/*.conf;
}}
"""


def program(name: str, package: str) -> str:
    """Find a program, or skip the test that needs it."""
    found = shutil.which(name, path=_PLACES)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


def with_ports(text: str, ports: dict[int, int]) -> str:
    """The text of a file with other ports in the place of those it names."""
    return re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda found: str(ports[int(found[0])]), text)


@contextlib.contextmanager
def run_program(command: list[str], place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a folder, until the block ends."""
    with (place / "output.txt").open("wb") as out:
        process = subprocess.Popen(
            command, cwd=place, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Nginx:
    """An nginx with the files of this repository."""

    def __init__(self, place: Path, ports: dict[int, int]) -> None:
        self.port = free_port()
        self._place = place
        conf = place / "conf.d"
        conf.mkdir(parents=True)
        for path in (DEPLOY / "nginx").glob("*.conf"):
            text = with_ports(path.read_text(), {**ports, 8000: self.port})
            (conf / path.name).write_text(text.replace("/var/log/nginx/", ""))
        user = "user root;" if os.getuid() == 0 else ""
        (place / "nginx.conf").write_text(_MAIN.format(user=user))

    @contextlib.contextmanager
    def running(self) -> Iterator[Nginx]:
        nginx = program("nginx", "nginx-light")
        with run_program([nginx, "-p", f"{self._place}/", "-c", "nginx.conf"], self._place):
            eventually(lambda: get(self.port, "/nothing")[0])
            yield self

    def lines(self) -> list[str]:
        """What it logged of requests."""
        log = self._place / "vllm-obtain.log"
        return log.read_text().splitlines() if log.exists() else []


class Prometheus:
    """A Prometheus with the files of this repository, only in more of a hurry."""

    def __init__(self, place: Path, ports: dict[int, int], key: str) -> None:
        self.port = free_port()
        self._place = place
        place.mkdir(parents=True)
        (place / "key").write_text(key)
        for path in (DEPLOY / "prometheus").glob("*.yml"):
            text = with_ports(path.read_text(), {**ports, 9093: 9093})
            text = re.sub(r"(scrape_interval|evaluation_interval): 5s", r"\1: 1s", text)
            text = text.replace("scrape_timeout: 4s", "scrape_timeout: 1s")
            text = text.replace("for: 15s", "for: 1s")
            text = text.replace("/etc/prometheus/vllm-obtain.key", str(place / "key"))
            (place / path.name).write_text(text)

    @contextlib.contextmanager
    def running(self) -> Iterator[Prometheus]:
        command = [
            program("prometheus", "prometheus"),
            "--config.file=prometheus.yml",
            f"--storage.tsdb.path={self._place}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        with run_program(command, self._place):
            eventually(lambda: get(self.port, "/-/ready")[0] == 200, timeout=20)
            yield self

    def api(self, path: str, **asked: str) -> Any:
        """What its HTTP API answers."""
        status, body = get(self.port, f"/api/v1/{path}?{urllib.parse.urlencode(asked)}")
        answer = json.loads(body)
        assert status == 200, answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The series of an expression now: labels and value."""
        found = self.api("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def alerts(self) -> dict[str, str]:
        """The states of alerts that are more than rules now."""
        return {each["labels"]["alertname"]: each["state"] for each in self.api("alerts")["alerts"]}


def get(port: int, path: str) -> tuple[int, bytes]:
    """One GET; 0 when nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""
