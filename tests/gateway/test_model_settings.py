"""Settings of single models, as clients of a whole service meet them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.models.gguf_files import write_gguf
from tests.service import ROOT, Service
from tests.waiting import eventually

TABLES = """
[Alpha]
aliases = ["gpt-4o", "beta"]
context = 256
preload = true

[Alpha.sampling]
temperature = 0.25
presence_penalty = 0.5
max_tokens = 3

[gamma]
ngram = 4

[missing]
aliases = ["gone"]
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the models alpha and beta and settings for them."""
    folder = tmp_path_factory.mktemp("tables")
    models = folder / "models"
    models.mkdir()
    write_model(models, "alpha", body_log=str(folder / "bodies"))
    own = {"general.sampling.temp": 0.6, "general.sampling.top_k": 20}
    write_gguf(models / "beta.gguf", {**own, "general.sampling.penalty_repeat": 1.1})
    write_model(models, "gamma")
    write_model(models, "beta", body_log=str(folder / "bodies"))
    (folder / "models.toml").write_text(TABLES)
    env = {
        **ENVIRONMENT,
        "MODELS_DIR": str(models),
        "MODEL_SETTINGS": str(folder / "models.toml"),
    }
    with Service(["run.py", "--no-fetch"], folder, env) as service:
        yield service


def ask(service: Service, model: str, **more: Any) -> Any:
    return service.chat(model=model, **more)


def test_aliases_are_listed_as_models_that_say_what_they_are(tables: Service) -> None:
    listed = tables.json("/v1/models")["data"]
    assert [each["id"] for each in listed] == ["alpha", "gpt-4o", "beta", "gamma"]
    alpha, alias, beta, _ = listed
    assert (alpha["aliases"], alpha["alias_of"], alpha["root"]) == (["gpt-4o"], None, "alpha")
    assert (alias["aliases"], alias["alias_of"], alias["root"]) == ([], "alpha", "alpha")
    assert alias["context_length"] == alpha["context_length"] == 256
    assert beta["aliases"] == [], "a model on disk wins over an alias"
    assert tables.json("/v1/models/GPT-4o") == alias
    assert tables.json("/v1/models/alpha") == alpha


def test_an_alias_answers_under_the_name_that_was_asked_for(tables: Service) -> None:
    assert ask(tables, "gpt-4o")["model"] == "gpt-4o"
    assert tables.engine()["model"] == "alpha"
    done = tables.json("/v1/models/load", {"model_name": "gpt-4o"})
    assert (done["model"], done["state"]) == ("alpha", "ready")
    body = {"model": "gone", "messages": [{"role": "user", "content": "hi"}]}
    assert tables.request("/v1/chat/completions", body)[0] == 404


def asked_of_the_engine(service: Service) -> Any:
    """The body of the last request that the engine of alpha got."""
    return json.loads((service.folder / "bodies").read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"temperature": 0.25, "top_p": 1, "presence_penalty": 0.5, "max_tokens": 3}),
        ({"max_tokens": 2}, {"temperature": 0.25, "presence_penalty": 0.5, "max_tokens": 2}),
        ({"max_completion_tokens": 2}, {"temperature": 0.25, "max_tokens": 2}),
        ({"frequency_penalty": 0.1}, {"temperature": 0.25, "presence_penalty": 0}),
        ({"top_p": 0.5}, {"temperature": 1, "top_p": 0.5, "presence_penalty": 0, "max_tokens": 3}),
        ({"seed": 5}, {"temperature": 0.25}),
    ],
)
def test_a_request_that_names_no_sampling_gets_that_of_the_model(
    tables: Service, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    body = {"model": "alpha", "messages": [{"role": "user", "content": "1 2 3 4 5"}], **given}
    answer = tables.json("/v1/chat/completions", body)
    asked = asked_of_the_engine(tables)
    assert {name: asked[name] for name in expected} == expected
    assert answer["usage"]["completion_tokens"] == expected.get("max_tokens", 3)


def test_a_models_own_file_says_how_it_draws(tables: Service) -> None:
    body = {"model": "beta", "prompt": "1 2 3 4 5"}
    assert tables.json("/v1/completions", body)["usage"]["completion_tokens"] == 5
    asked = json.loads((tables.folder / "bodies").read_text().splitlines()[-1])
    assert (asked["temperature"], asked["top_k"], asked["repeat_penalty"]) == (0.6, 20, 1.1)
    assert (asked["top_p"], asked["min_p"]) == (1, 0)


def test_the_status_says_what_holds_for_each_model(tables: Service) -> None:
    told = tables.status()["model_settings"]
    assert told["file"].endswith("/models.toml") and told["found"]
    assert told["unknown_models"] == ["missing"] and told["hidden_aliases"] == ["beta"]
    alpha, beta = told["models"]["alpha"], told["models"]["beta"]
    assert (alpha["context"], alpha["preload"], alpha["engine"]) == (256, True, None)
    assert alpha["sampling"]["temperature"] == 0.25 and alpha["sampling"]["max_tokens"] == 3
    assert beta["sampling"]["temperature"] == 0.6 and beta["sampling"]["top_p"] == 1.0
    guessing = told["models"]["gamma"]["sampling"]
    assert (guessing["temperature"], guessing["min_p"]) == (0.8, 0.0), "min_p and guesses clash"
    assert (beta["context"], beta["preload"], beta["aliases"]) == (512, False, [])


def test_a_line_that_is_broken_later_stops_nobody(tables: Service) -> None:
    """Last in this file: it kills the worker."""
    before = tables.status()
    (tables.folder / "models.toml").write_text("[alpha]\ncontext = 'x'")
    os.kill(before["gateway"]["pid"], signal.SIGTERM)

    def after() -> Any:
        try:
            now = tables.status()
        except OSError:
            return None
        return now if now["gateway"]["pid"] != before["gateway"]["pid"] else None

    now = eventually(after)
    assert now["supervisor"] == before["supervisor"], "the engines stayed"
    assert now["model_settings"] == before["model_settings"]


def test_a_bad_file_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("[alpha]\ncontxt = 1")
    env = {**os.environ, "MODEL_SETTINGS": str(tmp_path / "models.toml"), "PORT": "1"}
    command = [sys.executable, "run.py", "--no-fetch"]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith(
        f"MODEL_SETTINGS={tmp_path}/models.toml: [alpha] contxt is not a"
    )
    assert "Traceback" not in result.stderr
