"""A model that changes its engine over HTTP, while requests run: fake engines, then real ones."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import ROOT, Service
from tests.waiting import eventually
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.vllm.adapter import Vllm

HAS_MLX = importlib.util.find_spec("mlx_lm") is not None
VLLM_PYTHON = os.environ.get("VLLM_PYTHON", "")
HAS_VLLM = not Vllm(Settings.load({"VLLM_PYTHON": VLLM_PYTHON})).why_unavailable()
# Real engines take turns in this order, after llama.cpp.
ENGINES = [*(["vllm"] if HAS_VLLM else []), "mlx", "llama_cpp"]
STREAMS, FEW_STREAMS = 8, 3


class Streams:
    """Clients that ask for one stream after the other, and note what came.

    Args:
        service: whom they ask.
        body: of every request.
        count: how many ask at once.
    """

    def __init__(self, service: Service, body: dict[str, Any], count: int = STREAMS) -> None:
        self.problems: list[str] = []
        self.whole = 0
        self._service = service
        self._body = {**body, "stream": True}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self) -> Streams:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = STREAMS) -> None:
        """Wait until so many more streams have come to their end."""
        wanted = self.whole + count
        eventually(lambda: self.whole >= wanted or self.problems, timeout=90)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                status, _, answer = self._service.request("/v1/chat/completions", self._body)
            except OSError as error:
                self.problems.append(str(error))
                return
            finished = b'"finish_reason":"' in answer
            if status == 200 and finished and answer.endswith(b"data: [DONE]\n\n"):
                self.whole += 1
            else:
                self.problems.append(f"{status} {answer[-500:]!r}")
                return


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One model and two fake engines, the second of which waits for a file."""
    folder = tmp_path_factory.mktemp("fakes")
    models = folder / "models"
    models.mkdir()
    write_model(models, "a", pace=0.01)
    slow = {"slow_start": folder / "go", "print_at_start": ["stage: reading"]}
    write_model(models, "a", "other", pace=0.01, **slow)
    env = {**ENVIRONMENT, "MODELS_DIR": str(models)}
    with Service(["run.py", "--no-fetch"], folder, env) as service:
        yield service


def switches_of(service: Service) -> list[tuple[str, str]]:
    return [(each["from"], each["to"]) for each in service.status()["handovers"]]


def states(service: Service) -> list[tuple[str, str]]:
    return [(each["engine"], each["state"]) for each in service.status()["engines"]]


def test_no_stream_notices_a_switch(fakes: Service) -> None:
    load = "/v1/models/load"
    body = {"messages": [{"role": "user", "content": "one two three four five"}]}
    with Streams(fakes, body) as streams:
        streams.more()
        status, _, answer = fakes.request(
            load, {"model_name": "a", "engine": "Other", "wait": False}
        )
        assert status == 202, answer
        eventually(lambda: ("other", "starting") in states(fakes))

        def stage() -> Any:
            _, _, again = fakes.request(load, {"model_name": "a", "engine": "other", "wait": False})
            return json.loads(again)

        expected = {"model": "a", "engine": "other", "state": "starting", "stage": "reading"}
        eventually(lambda: stage() == expected)
        status, _, answer = fakes.request(load, {"model_name": "a", "engine": "fake"})
        assert (status, json.loads(answer)["error"]["code"]) == (409, "switch_under_way")
        streams.more()
        (fakes.folder / "go").touch()
        assert fakes.json(load, {"model_name": "a", "engine": "other"})["engine"] == "other"
        streams.more(2 * STREAMS)
        assert fakes.json(load, {"model_name": "a", "engine": "fake"})["engine"] == "fake"
        streams.more(2 * STREAMS)
    assert streams.problems == []
    assert switches_of(fakes) == [("fake", "other"), ("other", "fake")]
    eventually(lambda: states(fakes) == [("fake", "ready")])
    text = fakes.request("/metrics")[2].decode()
    labels = 'cause="switch",from="fake",model="a",to="other"'
    assert f"vllm_obtain_engine_handovers_total{{{labels}}} 1.0" in text


def test_an_engine_that_is_none_is_named(fakes: Service) -> None:
    body = {"model_name": "a", "engine": "nonsense"}
    status, _, answer = fakes.request("/v1/models/load", body)
    error = json.loads(answer)["error"]
    assert (status, error["param"]) == (400, "engine")
    status, _, answer = fakes.request("/v1/models/load", {**body, "engine": 7})
    assert (status, json.loads(answer)["error"]["param"]) == (400, "engine")


@pytest.mark.timeout(500)
@pytest.mark.skipif(not HAS_MLX, reason="MLX is not installed: pip install 'mlx[cpu]' mlx-lm")
@pytest.mark.usefixtures("model_here")
def test_the_engines_take_turns_under_streams(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    for file in (ROOT / "models").resolve().rglob("*.gguf"):
        _link(file.resolve(), folder / file.name)
    env = {
        "MODELS_DIR": str(tmp_path / "models"),
        "INFERENCE_ENGINE": "llama_cpp",
        "VLLM_PYTHON": VLLM_PYTHON,
        "VLLM_MAX_MODEL_LEN": "1024",
    }
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    with Service(["run.py", "--no-fetch"], tmp_path, env) as service:
        (model,) = service.json("/v1/models")["data"]
        # Real engines share the processors with whatever else is tested.
        with Streams(service, body, FEW_STREAMS) as streams:
            streams.more()
            for engine in ENGINES:
                load = {"model_name": model["id"], "engine": engine}
                assert service.json("/v1/models/load", load, timeout=240)["engine"] == engine
                streams.more(2 * STREAMS)
        assert streams.problems == []
        assert switches_of(service) == list(zip(["llama_cpp", *ENGINES], ENGINES, strict=False))
        assert service.json("/v1/models")["data"] == [model], "the converted folder is no model"
        text = service.request("/metrics")[2].decode()
        for outcome in ("error", "cancelled"):
            assert not re.search(rf'outcome="{outcome}"}} (?!0\.0$)', text, re.MULTILINE)


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where there can be none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
