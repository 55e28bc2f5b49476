from __future__ import annotations

from pathlib import Path

import pytest

from vllm_obtain.download import file_selection, library
from vllm_obtain.download.file_selection import RepoFile
from vllm_obtain.download.library import ModelLibrary
from vllm_obtain.errors import SettingsError

OURS = library.load()
ENTRY = """
[models.qwen3-8b]
about = "mine"
kind = "chat"
parameters = 1
licence = "MIT"
family = "chatml"
context = 2048
[models.qwen3-8b.gguf]
huggingface = "me/mine"
file = "*.gguf"
size = 1
"""


def test_it_covers_all_kinds_and_sizes() -> None:
    models = OURS.models.values()
    assert len(models) >= 20
    assert {each.kind for each in models} == {"chat", "coder", "reasoning", "vision", "embedding"}
    sizes = [each.parameters for each in models if each.kind != "embedding"]
    assert min(sizes) < 0.2 and max(sizes) > 60
    for name in ("smollm2-135m", "qwen-0.5b", "qwen3-8b"):
        assert name in OURS.models


@pytest.mark.parametrize("name", OURS.models)
def test_each_entry_makes_sense(name: str) -> None:
    entry = OURS.models[name]
    assert name == name.lower() and OURS.family(entry).template
    assert entry.about[0].isupper() and not entry.about.endswith(".")
    for form, offer in entry.offers.items():
        bits = offer.size * 8 / (entry.parameters * 1e9)
        # Between 3 bits and 32 bits a weight: a slip of a digit shows.
        assert 3 < bits < 33, (form, bits)
        assert offer.memory > offer.size
        assert bool(offer.file) == (form == "gguf")


def test_an_entry_of_the_owners_wins(tmp_path: Path) -> None:
    (tmp_path / library.FILE).write_text(ENTRY.replace("qwen3-8b", "Qwen3-8B"))
    merged = library.load(tmp_path)
    assert merged.find("qwen3-8b")[1].about == "mine"
    assert len(merged.models) == len(OURS.models)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = 3", r"Expected `object`, got `int` - at `\$\.models`"),
        ("[models.x]\nkind = 1", r"models"),
        (ENTRY.replace("size = 1", "size = 1\nsieze = 2"), "sieze"),
        (ENTRY.replace('"me/mine"', '"../mine"'), "huggingface|pattern"),
        (ENTRY.replace('"chatml"', '"none-such"'), "undefined family 'none-such'"),
        (ENTRY.replace('huggingface = "me/mine"\n', ""), "has no source: add huggingface"),
        (ENTRY.replace('file = "*.gguf"\n', ""), "has no file name"),
        (ENTRY.replace("qwen3-8b", '".."'), "is not a valid name"),
        ("[", "not valid TOML"),
    ],
)
def test_a_fault_in_the_owners_file_is_told_with_its_place(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / library.FILE).write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        library.load(tmp_path)
    assert library.FILE in str(caught.value)


def test_a_family_may_be_the_owners_own() -> None:
    text = '[families.mine]\ntemplate = "Mine"\n' + ENTRY.replace("chatml", "mine")
    assert library.parse(text, "here", ModelLibrary()).models


def repo_files(*paths: str) -> list[RepoFile]:
    return [RepoFile(path, 1) for path in paths]


@pytest.mark.parametrize(
    ("have", "file", "projector", "taken"),
    [
        (["a-Q8_0.gguf", "a-Q4_K_M.gguf"], "", "", ["a-Q4_K_M.gguf"]),
        (["a-F16.gguf"], "", "", ["a-F16.gguf"]),
        (["a-q8_0.gguf", "a-q4_0.gguf"], "*q8_0*", "", ["a-q8_0.gguf"]),
        (
            ["a-q4_k_m-00002-of-00002.gguf", "a-q4_k_m-00001-of-00002.gguf"],
            "*q4_k_m*.gguf",
            "",
            ["a-q4_k_m-00001-of-00002.gguf", "a-q4_k_m-00002-of-00002.gguf"],
        ),
        # The whole one, where it is there both ways.
        (["a-q4_k_m-00001-of-00001.gguf", "a-q4_k_m.gguf"], "", "", ["a-q4_k_m.gguf"]),
        # One part stands for all.
        (
            ["a-Q6_K-00001-of-00002.gguf", "a-Q6_K-00002-of-00002.gguf"],
            "a-Q6_K-00001-of-00002.gguf",
            "",
            ["a-Q6_K-00001-of-00002.gguf", "a-Q6_K-00002-of-00002.gguf"],
        ),
        (
            ["v-Q4_K_M.gguf", "mmproj-v-f16.gguf", "mmproj-v-Q8_0.gguf"],
            "",
            "",
            ["v-Q4_K_M.gguf", "mmproj-v-f16.gguf"],
        ),
        (
            ["v-Q4_K_M.gguf", "mmproj-v-f16.gguf", "mmproj-v-Q8_0.gguf"],
            "",
            "mmproj*Q8_0.gguf",
            ["v-Q4_K_M.gguf", "mmproj-v-Q8_0.gguf"],
        ),
    ],
)
def test_which_gguf_files_make_a_model(
    have: list[str], file: str, projector: str, taken: list[str]
) -> None:
    assert [
        each.path for each in file_selection.choose(repo_files(*have), file, projector)
    ] == taken
