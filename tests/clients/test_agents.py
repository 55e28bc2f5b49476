"""Coding agents of npm in sessions with tools: the client is real, the model's words are not.

The fake engine writes calls of tools, each after the result of the one before, and then text.
"""

from __future__ import annotations

import json
import os
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pytest

from tests import small_model
from tests.clients.npm import program
from tests.clients.scripts import call
from tests.fleet import MODEL, Fleet
from tests.profiles import Fakes
from tests.service import Service

pytestmark = pytest.mark.slow

TASK = "Add the numbers in numbers.txt and write the sum to sum.txt."
SECONDS = 90


class Agent(ABC):
    """A coding agent."""

    package: str
    name: str

    @abstractmethod
    def script(self, work: Path) -> list[str]:
        """The model's completions, for a task in a folder."""

    @abstractmethod
    def arguments(self, url: str, model: str) -> list[str]:
        """The arguments of its command."""

    @abstractmethod
    def variables(self, url: str, model: str, home: Path) -> dict[str, str]:
        """Its environment."""


class Claude(Agent):
    """Claude Code."""

    package, name = "@anthropic-ai/claude-code", "claude"

    def script(self, work: Path) -> list[str]:
        return [
            call("ToolSearch", query="select:CronList"),
            call("Read", file_path=str(work / "numbers.txt")),
            call("Bash", command="echo 42 > sum.txt", description="Write the sum"),
            "The sum is 42.",
        ]

    def arguments(self, url: str, model: str) -> list[str]:  # noqa: ARG002
        return ["-p", TASK, "--allowedTools", "Bash,Read"]

    def variables(self, url: str, model: str, home: Path) -> dict[str, str]:  # noqa: ARG002
        return {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_AUTH_TOKEN": "none",
            "ANTHROPIC_MODEL": model,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }


class Codex(Agent):
    """Codex CLI."""

    package, name = "@openai/codex", "codex"

    def script(self, work: Path) -> list[str]:  # noqa: ARG002
        return [
            call("exec_command", cmd="cat numbers.txt"),
            call("exec_command", cmd="echo 42 > sum.txt"),
            "The sum is 42.",
        ]

    def arguments(self, url: str, model: str) -> list[str]:
        provider = {
            "name": "vllm-obtain",
            "base_url": f"{url}/v1",
            "wire_api": "responses",
            "env_key": "API_KEY",
        }
        settings = {"model": model, "model_provider": "local"}
        settings |= {f"model_providers.local.{name}": value for name, value in provider.items()}
        options = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
        # The test's own folder is the sandbox.
        flags = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
        return ["exec", *flags, *(part for option in options for part in ("-c", option)), TASK]

    def variables(self, url: str, model: str, home: Path) -> dict[str, str]:  # noqa: ARG002
        return {"CODEX_HOME": str(home), "API_KEY": "none"}


def run(
    command: list[str], work: Path, home: Path, variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run an agent in a folder, with nothing of this environment but the path."""
    return subprocess.run(
        command,
        cwd=work,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("agent", [Claude(), Codex()], ids=lambda agent: agent.name)
def test_a_session_with_tools(agent: Agent, fakes: Fakes, tmp_path: Path) -> None:
    path = program(agent.package, agent.name)
    work, home, log = tmp_path / "work", tmp_path / "home", tmp_path / "log"
    work.mkdir()
    home.mkdir()
    (work / "numbers.txt").write_text("17 and 25\n")
    # The prompts with all tools have some 20,000 tokens.
    context: dict[str, Any] = {"context": 200_000, "pool_tokens": 400_000}
    name = fakes.add(
        f"agent-{agent.name}",
        {"llama.context_length": 262_144},
        script=agent.script(work),
        body_log=str(log),
        **context,
    )
    before = len(fakes.logged("api_requests.log"))
    variables = agent.variables(fakes.url, name, home)
    result = run([str(path), *agent.arguments(fakes.url, name)], work, home, variables)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "The sum is 42." in result.stdout
    assert (work / "sum.txt").read_text() == "42\n"
    bodies = [json.loads(line) for line in log.read_text().splitlines()]
    prompts = [body["prompt"] for body in bodies if "grammar" in body]
    turns = len(agent.script(work))
    assert [prompt.count("<tool_response>") for prompt in prompts] == [*range(turns)]
    assert "17 and 25" in prompts[-1]
    # Agents also repeat a refused request without what they take for the reason.
    requests = fakes.logged("api_requests.log")[before:]
    assert {line["status"] for line in requests} == {200}


def test_a_real_engine_takes_the_prompt_of_claude_code(fleet: Fleet, tmp_path: Path) -> None:
    """One turn on a small model of random weights, with all tools in its prompt and grammar."""
    agent, home, models = Claude(), tmp_path / "home", tmp_path / "models"
    path = program(agent.package, agent.name)
    home.mkdir()
    small_model.write(models / "tiny", fleet.models("mlx") / MODEL, context=32_768)
    env = {"MODELS_DIR": str(models), "INFERENCE_ENGINE": "mlx", "DEFAULT_MODEL": "tiny"}
    with Service(["run.py", "--no-fetch"], tmp_path, env) as service:
        variables = agent.variables(service.url, "tiny", home)
        variables["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = "8"
        # It ends with an error, since the model's words mean nothing.
        run([str(path), "-p", "Say hi."], tmp_path, home, variables)
        requests = [line for line in service.logged("api_requests.log") if line.get("model")]
    assert {line["status"] for line in requests} == {200}
    assert requests[0]["prompt_tokens"] > 5_000 and requests[0]["completion_tokens"] == 8
