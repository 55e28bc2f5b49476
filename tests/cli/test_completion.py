"""What the shell offers, and that no command is left without a word about itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from tests.models.gguf_files import write_gguf
from tests.service import ROOT
from vllm_obtain import __version__
from vllm_obtain.cli import app

PROGRAM = Path(sys.executable).parent / "vllm-obtain"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("alpha", "alpine", "beta"):
        write_gguf(tmp_path / "models" / name / f"{name}.gguf")
    return tmp_path / "models"


def run_program(*words: str, models: Path | None = None, **env: str) -> str:
    names = {"PYTHONPATH": str(ROOT), "MODELS_DIR": str(models or "/nonexistent")}
    result = subprocess.run(
        [str(PROGRAM), *words],
        env={**os.environ, **names, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def complete(line: str, models: Path | None = None) -> list[str]:
    """What bash is told when the tabulator is hit at the end of a line."""
    words = line.split(" ")
    ask = {"_VLLM_OBTAIN_COMPLETE": "complete_bash", "COMP_WORDS": line}
    return run_program(models=models, COMP_CWORD=str(len(words) - 1), **ask).split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell: str) -> None:
    script = run_program(_VLLM_OBTAIN_COMPLETE=f"source_{shell}")
    assert f"complete_{shell}" in script and "vllm-obtain" in script


def test_bash_completes_with_its_script(models: Path) -> None:
    """The script in a real shell, asked as the tabulator asks it."""
    script = f"""
eval "$(_VLLM_OBTAIN_COMPLETE=source_bash {PROGRAM})"
COMP_WORDS=(vllm-obtain show alp) COMP_CWORD=2
_vllm_obtain_completion {PROGRAM}
echo "${{COMPREPLY[*]}}"
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MODELS_DIR": str(models)}
    result = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True)
    assert result.stdout.split() == ["alpha", "alpine"], result.stderr


def test_commands_models_names_and_engines_are_offered(models: Path) -> None:
    assert complete("vllm-obtain st") == ["stop", "status"]
    assert complete("vllm-obtain keys ") == ["create", "list", "revoke"]
    for command in ("show", "load", "run", "bench"):
        assert complete(f"vllm-obtain {command} al", models) == ["alpha", "alpine"], command
    assert complete("vllm-obtain pull qwen3-8") == ["qwen3-8b"]
    assert complete("vllm-obtain switch alpha l", models) == ["llama_cpp"]


def test_what_cannot_be_looked_up_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("no folder")
    assert complete("vllm-obtain show ", tmp_path / "models") == []


def commands(group: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, each in getattr(group, "commands", {}).items():
        yield (*path, name), each
        yield from commands(each, (*path, name))


def test_each_command_and_option_says_what_it_is_for() -> None:
    found = list(commands(typer.main.get_command(app)))
    assert len(found) > 25
    for path, command in found:
        assert command.help, path  # type: ignore[attr-defined]
        for each in command.params:  # type: ignore[attr-defined]
            if each.name != "help":
                assert getattr(each, "help", None), (path, each.name)


def test_every_table_is_there_for_programs_too() -> None:
    tables = "list show verify ps status logs doctor bench backup restore".split()
    found = dict(commands(typer.main.get_command(app)))
    for path in [*((name,) for name in tables), ("keys", "list"), ("service", "status")]:
        options = {option for each in found[path].params for option in each.opts}  # type: ignore[attr-defined]
        assert "--json" in options, path
    for name in "run pull list show rm ps load unload switch status bench".split():
        options = {option for each in found[(name,)].params for option in each.opts}  # type: ignore[attr-defined]
        assert {"--url", "--key"} <= options, name


def test_version_and_a_wrong_command() -> None:
    assert run_program("version").strip() == __version__
    wrong = subprocess.run([str(PROGRAM), "serv"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "serve" in wrong.stderr
