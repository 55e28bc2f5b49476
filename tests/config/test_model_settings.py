"""The file of settings of single models: what is read, what is refused, and what documents say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.service import ROOT
from vllm_obtain.config.model_settings import ModelSettings, ModelTable, SamplingSettings
from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import SettingsError

EXAMPLE = ROOT / "models.toml.example"
PATHS = {"templates/chatml.jinja", "models/qwen3-0.6b.gguf", "adapters/poet.gguf"}


def load(folder: Path, text: str, **env: Any) -> ModelTable:
    file = folder / "models.toml"
    file.write_text(text)
    variables = {name.upper(): str(value) for name, value in env.items()}
    return Settings.load({"MODEL_SETTINGS": str(file), **variables}).models


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]\ncontext = 'x'", "[a] context must be an integer between 16 and 2147483647, got 'x'"),
        ("[a]\ncontext = 0", "between 16 and 2147483647, got 0."),
        ("[a]\ncontexts = 1", "[a] contexts is not a setting. Did you mean context? Settings: al"),
        ("[a.sampling]\ntemperatur = 1", "[a] sampling.temperatur is not a setting. Did you"),
        (
            "[a.sampling]\ntemperature = 3",
            "[a] sampling.temperature must be a number between 0 and 2, got 3.",
        ),
        ("[a.sampling]\ntop_k = 1.5", "sampling.top_k must be an integer between -1 and"),
        ("[a]\nsampling = 3", "[a] sampling must be a table, got 3."),
        ("[a]\npreload = 'yes'", "[a] preload must be true or false, got 'yes'."),
        ("[a]\naliases = 'x'", "[a] aliases must be a list of names"),
        ("[a]\naliases = ['']", "must be a list of names with 1 to 200 characters, got ''."),
        ("[a]\nkv_cache_type = 'q5'", "kv_cache_type must be f16, q8_0, q4_0 or fp8, got 'q5'."),
        ("[a]\nengine = 'tpu'", "[a] engine must be mlx, vllm or llama_cpp, got 'tpu'."),
        ("[a]\nengine = 3", "[a] engine must be a string, got 3."),
        ("[a]\nchat_template = 'none.jinja'", "chat_template must be an existing path ("),
        ("[a]\ngpu = -1", "[a] gpu must be a GPU index between 0 and 1023, or a list of them"),
        ("[a]\ngpu = []", "or a list of them, got []."),
        ("[a]\nttl = -1", "[a] ttl must be a number between 0 and 31536000, got -1."),
        ("[a]\nttl = 1\npin = true", "[a] has both pin and ttl"),
        ("[a]\nlora = '.'", "[a] must have both lora"),
        ("[a]\ndraft_model = '.'\nngram = 4", "[a] has both draft_model and ngram"),
        (
            "[a]\nlora = '.'\nbase = 'B'\n[b]\nlora = '.'\nbase = 'c'",
            "[a] base must not be a LoRA adapter, got 'B'.",
        ),
        ("[a]\n[A]", "[A] is the same model as [a]"),
        (
            "[a]\naliases = ['x']\n[b]\naliases = ['X']",
            "[b] aliases contains 'X', which is already an",
        ),
        ("[a]\n[b]\naliases = ['A']", "[b] aliases contains 'A', which is the model [a]"),
        (
            "[a]\npreload = true\n[b]\npreload = true",
            "[b] preload exceeds MAX_CONCURRENT_MODELS=1: a, b would be",
        ),
        ("[a]\npin = true\n[b]\npin = true", "[b] pin exceeds MAX_CONCURRENT_MODELS=1"),
        ("context = 4", "context is outside of a table"),
        ("[a", "invalid TOML: "),
        ("#" * 70_000, "exceeds the limit of 65536 bytes"),
    ],
)
def test_an_error_names_file_table_and_key(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"MODEL_SETTINGS={tmp_path}/models.toml: ")
    assert told in str(caught.value)


def test_all_errors_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, "[a]\ncontext = 1\nx = 1\n[b]\nttl = 'x'")
    assert len(str(caught.value).splitlines()) == 3


def test_preloaded_models_and_the_default_model_share_the_model_limit(
    tmp_path: Path,
) -> None:
    text = "[a]\npreload = true\naliases = ['x']"
    for same in ("a", "A", "x"):
        assert load(tmp_path, text, default_model=same).preloaded == ["a"]
    with pytest.raises(SettingsError, match="preload exceeds MAX_CONCURRENT_MODELS=1: b, a would"):
        load(tmp_path, text, default_model="b")
    assert load(tmp_path, text, default_model="b", max_concurrent_models=2).preloaded == ["a"]


def test_a_missing_file_is_treated_as_empty(tmp_path: Path) -> None:
    settings = Settings.load({"MODEL_SETTINGS": str(tmp_path / "none.toml")})
    assert settings.models.of("a") == ModelSettings()
    assert (settings.models.aliases, settings.models.text) == ({}, "")


def test_names_ignore_case_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").touch()
    table = load(tmp_path, "['Q/q.3']\nchat_template = 't.jinja'\nengine = 'Llama.CPP'\ngpu = 1")
    found = table.of("q/Q.3")
    assert found.chat_template == tmp_path / "t.jinja"
    assert (found.engine, found.gpus) == ("llama_cpp", (1,))


def test_a_child_process_gets_the_content_that_the_first_process_read(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text("[a]\ncontext = 64")
    settings = Settings.load({"MODEL_SETTINGS": str(file)})
    file.write_text("[a]\ncontext = 'broken since'")
    assert Settings.load(settings.environ()) == settings
    file.unlink()
    assert Settings.load(settings.environ()).models.of("a").context == 64


def keys_of_the_example() -> str:
    return re.sub(r"^#(?=[\w\[])", "", EXAMPLE.read_text(), flags=re.MULTILINE)


def test_the_example_sets_nothing_and_shows_every_key(tmp_path: Path) -> None:
    assert load(tmp_path, EXAMPLE.read_text()).tables == {}
    text = keys_of_the_example()
    for path in PATHS:
        assert path in text
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    tables = load(tmp_path, text).tables
    shown = {key for table in tables.values() for key in table.model_fields_set}
    assert shown == set(ModelSettings.model_fields)
    assert tables["smollm2-135m"].sampling.values.keys() == SamplingSettings.model_fields.keys()


def test_the_document_describes_every_key() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    assert keys_of(text, "Keys") == list(ModelSettings.model_fields)
    assert keys_of(text, "Default sampling") == list(SamplingSettings.model_fields)


def keys_of(text: str, heading: str) -> list[str]:
    """The first column of the table below a heading."""
    section = text.partition(f"### {heading}\n")[2].partition("\n#")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
