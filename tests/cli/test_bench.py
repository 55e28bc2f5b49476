"""`vllm-obtain bench` against services that run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import ROOT, Service
from tests.waiting import eventually
from vllm_obtain.benchmark.stats import RequestResult, summarize

pytestmark = pytest.mark.slow

KEY = "vo-0123456789abcdef0123456789abcdef"
SHORT = ("--prompt-tokens", "20", "--answer-tokens", "8")


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Models with a fault each."""
    folder = tmp_path_factory.mktemp("bench")
    models = folder / "models"
    models.mkdir()
    write_model(models, "steady", pace=0.01)
    write_model(models, "slow", pace=0.2)
    write_model(models, "faulty", error={"message": "no luck"}, only_on=" 7 the ")
    env = {**ENVIRONMENT, "MODELS_DIR": str(models), "API_KEYS": KEY, "MAX_CONCURRENT_MODELS": "3"}
    with Service(["run.py", "--no-fetch"], folder, env) as service:
        yield service


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    names = {"PYTHONPATH": str(ROOT), "VLLM_OBTAIN_KEY": KEY}
    return subprocess.Popen(
        [sys.executable, "-m", "vllm_obtain", "bench", *words],
        cwd=folder,
        env={**os.environ, **names},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def bench(folder: Path, *words: str, code: int = 0) -> tuple[str, str]:
    with start(folder, *words) as process:
        out, errors = process.communicate(timeout=90)
    assert process.returncode == code, out + errors
    return out, errors


def runs(out: str) -> list[dict[str, Any]]:
    return list(json.loads(out)["runs"])


def test_a_real_model_is_measured(service: Service, tmp_path: Path) -> None:
    words = ("--url", service.url, "--streams", "1,3", "--requests", "3", *SHORT)
    out, _ = bench(tmp_path, *words, "--json")
    one, three = runs(out)
    assert (one["streams"], three["streams"]) == (1, 3)
    for each in (one, three):
        assert (each["answers"], each["failed"], each["cut"]) == (3, 0, 0)
        # Every answer goes on to the length that was asked for.
        assert each["answer_tokens"] == 8 and 15 <= each["prompt_tokens"] < 80
        assert 24 / each["seconds"] == pytest.approx(each["tokens_per_second"], rel=0.01)
        assert 0 < each["first_token_ms"]["p50"] <= each["first_token_ms"]["p95"]
        assert 0 < each["between_tokens_ms"]["p50"] < 1000 * each["seconds"]


@pytest.mark.serial
def test_what_a_stream_takes_is_told(fake: Service, tmp_path: Path) -> None:
    words = ("steady", "--url", fake.url, "--streams", "4", "--requests", "8", *SHORT)
    (figure,) = runs(bench(tmp_path, *words, "--json")[0])
    assert figure["answers"] == 8 and figure["errors"] == {}
    assert 9 <= figure["between_tokens_ms"]["p50"] < 1000
    assert 1 < figure["tokens_per_second_of_one"] <= 110
    assert figure["tokens_per_second"] > figure["tokens_per_second_of_one"]
    table, _ = bench(tmp_path, *words)
    assert "tok/s" in table and "p50 / p95" in table and "\x1b" not in table
    assert "…" not in table, "80 columns are enough"


@pytest.mark.serial
def test_time_cuts_a_run_off_and_that_is_no_failure(fake: Service, tmp_path: Path) -> None:
    words = ("slow", "--url", fake.url, "--streams", "2", "--duration", "0.7")
    out, _ = bench(tmp_path, *words, "--prompt-tokens", "60", "--json")
    (figure,) = runs(out)
    assert (figure["answers"], figure["cut"], figure["failed"]) == (0, 2, 0)
    assert 0.6 < figure["seconds"] < 3 and 2 <= figure["tokens_per_second"] * figure["seconds"] < 10


def test_failures_are_told_and_are_the_exit_code(fake: Service, tmp_path: Path) -> None:
    words = ("faulty", "--url", fake.url, "--streams", "1", "--requests", "9", *SHORT)
    out, _ = bench(tmp_path, *words, "--json", code=1)
    (figure,) = runs(out)
    assert (figure["failed"], figure["answers"]) == (1, 8)
    ((error, count),) = figure["errors"].items()
    assert "no luck" in error and count == 1
    assert "1 errors: " in bench(tmp_path, *words, code=1)[0]


def test_a_service_that_answers_nothing_is_one_sentence(fake: Service, tmp_path: Path) -> None:
    _, silent = bench(tmp_path, "--url", "http://127.0.0.1:9", code=1)
    assert "The chat request to" in silent and "vllm-obtain serve" in silent
    _, unknown = bench(tmp_path, "nobody", "--url", fake.url, code=1)
    assert "404" in unknown and "nobody" in unknown and "Traceback" not in unknown
    _, locked = bench(tmp_path, "--url", fake.url, "--key", "wrong", code=1)
    assert "401" in locked
    for wrong in ("0", "1,,2", "many", "1001"):
        bench(tmp_path, "--streams", wrong, code=2)


@pytest.mark.serial
def test_ctrl_c_prints_what_was_measured(fake: Service, tmp_path: Path) -> None:
    words = ("steady", "--url", fake.url, "--streams", "1,4", "--requests", "10000", "--json")
    # What the tests before have cut off may not have ended yet.
    eventually(lambda: not any(each["in_flight"] for each in engines(fake)))
    with start(tmp_path, *words, "--duration", "60", *SHORT) as process:
        # A model is asked for: it measures.
        while not any(each["in_flight"] for each in engines(fake)):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 130, out + errors
    response = json.loads(out)
    assert response["interrupted"] is True and "Traceback" not in errors
    assert [each["streams"] for each in response["runs"]] in ([], [1])


def engines(service: Service) -> list[dict[str, Any]]:
    head = {"Authorization": f"Bearer {KEY}"}
    return list(json.loads(service.request("/v1/system/status", headers=head)[2])["engines"])


def test_a_service_of_another_make_need_not_go_on_at_the_end(tmp_path: Path) -> None:
    """One that knows neither `ignore_eos` nor usage."""
    code = """
import http.server, json
class Plain(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        bad = 'ignore_eos' in asked
        self.send_response(400 if bad else 200)
        self.end_headers()
        if bad:
            self.wfile.write(b'{"error": {"message": "unknown field ignore_eos"}}')
            return
        for word in ('a', 'b', 'c'):
            event = {'choices': [{'delta': {'reasoning_content': word}}]}
            self.wfile.write(f'data: {json.dumps(event)}\\n\\n'.encode())
        self.wfile.write(b'data: [DONE]\\n\\n')
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Plain)
print(server.server_port, flush=True)
server.serve_forever()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        url = f"http://127.0.0.1:{other.stdout.readline().strip()}"
        (figure,) = runs(bench(tmp_path, "--url", url, "--streams", "2", "--json")[0])
        other.kill()
    assert (figure["answers"], figure["answer_tokens"], figure["prompt_tokens"]) == (8, 3, 0)


def test_figures_by_hand() -> None:
    good = RequestResult(
        10.0, first=10.5, last=12.5, ended=12.6, gaps=[1.0, 1.0], tokens=3, prompt_tokens=7
    )
    cut = RequestResult(11.0, first=12.0, last=12.0, ended=14.0, tokens=1, cut=True)
    bad = RequestResult(10.0, ended=10.1, error="500: no")
    found = summarize(2, [good, cut, bad])
    assert (found.answers, found.failed, found.cut, found.seconds) == (1, 1, 1, 4.0)
    assert (found.tokens_per_second, found.tokens_per_second_of_one) == (1.0, 1.0)
    assert found.first_token_ms is not None and found.first_token_ms.p95 == 1000.0
    assert (found.prompt_tokens, found.answer_tokens, found.errors) == (7, 3, {"500: no": 1})
    nothing = summarize(1, [bad])
    assert nothing.first_token_ms is None and nothing.tokens_per_second == 0
