"""The file of settings of single models: what is read, what is refused, and what documents say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.service import ROOT
from vllm_obtain.errors import SettingsError
from vllm_obtain.model_settings import ModelSettings, ModelTable, SamplingSettings
from vllm_obtain.settings import Settings

EXAMPLE = ROOT / "models.toml.example"
PATHS = {"templates/chatml.jinja", "models/qwen3-0.6b.gguf", "adapters/poet.gguf"}


def load(folder: Path, text: str, **env: Any) -> ModelTable:
    file = folder / "models.toml"
    file.write_text(text)
    given = {name.upper(): str(value) for name, value in env.items()}
    return Settings.load({"MODEL_SETTINGS": str(file), **given}).models


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]\ncontext = 'x'", "[a] context = 'x' is not allowed (allowed: a valid integer)"),
        ("[a]\ncontext = 0", "greater than or equal to 16"),
        ("[a]\ncontexts = 1", "[a] contexts is not a setting. Did you mean context? Allowed: al"),
        ("[a.sampling]\ntemperatur = 1", "[a] sampling.temperatur is not a setting. Did you"),
        ("[a.sampling]\ntemperature = 3", "[a] sampling.temperature = 3 is not allowed (allowed: "),
        ("[a.sampling]\ntop_k = 1.5", "valid integer"),
        ("[a]\npreload = 'yes'", "valid boolean"),
        ("[a]\naliases = 'x'", "[a] aliases = 'x' is not allowed (allowed: a valid list)"),
        ("[a]\naliases = ['']", "at least 1 character"),
        ("[a]\nkv_cache_type = 'q5'", "'f16', 'q8_0', 'q4_0' or 'fp8'"),
        ("[a]\nengine = 'tpu'", "[a] engine = 'tpu' is not allowed (allowed: mlx, vllm, llama_cpp"),
        ("[a]\nchat_template = 'none.jinja'", "a path that exists; there is no "),
        ("[a]\ngpu = -1", "[a] gpu = -1 is not allowed"),
        ("[a]\ngpu = []", "[a] gpu = [] is not allowed"),
        ("[a]\nttl = -1", "greater than or equal to 0"),
        ("[a]\nttl = 1\npin = true", "[a] has pin and ttl"),
        ("[a]\nlora = '.'", "[a] needs both lora"),
        ("[a]\ndraft_model = '.'\nngram = 4", "[a] has draft_model and ngram"),
        (
            "[a]\nlora = '.'\nbase = 'B'\n[b]\nlora = '.'\nbase = 'c'",
            "[a] base = 'B' is not",
        ),
        ("[a]\n[A]", "[A] is the same model as [a]"),
        ("[a]\naliases = ['x']\n[b]\naliases = ['X']", "[b] aliases has 'X', which is an alias of"),
        ("[a]\n[b]\naliases = ['A']", "[b] aliases has 'A', which is the model [a]"),
        ("[a]\npreload = true\n[b]\npreload = true", "[b] preload is one too many: a, b would be"),
        ("[a]\npin = true\n[b]\npin = true", "[b] pin is one too many"),
        ("context = 4", "context stands outside of a table"),
        ("[a", "it is not valid TOML: "),
        ("#" * 70_000, "larger than 65536 bytes"),
    ],
)
def test_what_is_not_allowed_is_told_with_file_table_and_key(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"MODEL_SETTINGS={tmp_path}/models.toml: ")
    assert told in str(caught.value)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, "[a]\ncontext = 1\nx = 1\n[b]\nttl = 'x'")
    assert len(str(caught.value).splitlines()) == 3


def test_a_model_that_is_loaded_at_the_start_and_the_default_one_share_the_places(
    tmp_path: Path,
) -> None:
    text = "[a]\npreload = true\naliases = ['x']"
    for same in ("a", "A", "x"):
        assert load(tmp_path, text, default_model=same).preloaded == ["a"]
    with pytest.raises(SettingsError, match="preload is one too many: b, a would"):
        load(tmp_path, text, default_model="b")
    assert load(tmp_path, text, default_model="b", max_concurrent_models=2).preloaded == ["a"]


def test_a_file_that_is_not_there_is_an_empty_one(tmp_path: Path) -> None:
    settings = Settings.load({"MODEL_SETTINGS": str(tmp_path / "none.toml")})
    assert settings.models.of("a") == ModelSettings()
    assert (settings.models.aliases, settings.models.text) == ({}, "")


def test_names_are_found_in_any_capitals_and_paths_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").touch()
    table = load(tmp_path, "['Q/q.3']\nchat_template = 't.jinja'\nengine = 'Llama.CPP'\ngpu = 1")
    found = table.of("q/Q.3")
    assert found.chat_template == tmp_path / "t.jinja"
    assert (found.engine, found.gpus) == ("llama_cpp", (1,))


def test_another_process_reads_what_the_first_one_did(tmp_path: Path) -> None:
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
    assert tables["smollm2-135m"].sampling.given.keys() == SamplingSettings.model_fields.keys()


def test_the_document_describes_every_key() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    told = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert told == list(ModelSettings.model_fields)
    sampling = text.partition("## Sampling")[2].partition("\n- ")[0]
    assert re.findall(r"`(\w+)`", sampling) == list(SamplingSettings.model_fields)
