"""Run the service, type the commands below, and draw what they print: docs/images/terminal.svg.

python scripts/terminal_picture.py

The service runs on PORT (8001) in a temporary folder, with the models of this one. Needs jq.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from io import StringIO
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "terminal.svg"
WIDTH = 100
PORT = os.environ.get("PORT", "8001")
URL = f"http://127.0.0.1:{PORT}"

# What `make run` does, once everything is installed.
START = "make run"
SERVICE = [sys.executable, str(ROOT / "run.py"), "--mode", "prod"]
# Lines with a prompt are typed, those with a # are shown, the others belong to the line before.
COMMANDS = [
    '$ vllm-obtain run smollm2-135m "Why is the sky blue?" --max-tokens 60 --temperature 0',
    """# Structured output: the response is valid, even from a model of 135 million parameters.
$ curl -s URL/v1/chat/completions -H 'Content-Type: application/json' -d '{
  "messages": [{"role": "user", "content": "Rome is in Italy. Give the city and the country."}],
  "guided_json": {"type": "object", "required": ["city", "country"],
    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    "additionalProperties": false}, "temperature": 0
}' | jq -r '.choices[0].message.content'""",
    """# The engine is killed in the middle of a request. The request is retried and completes.
$ curl -s URL/v1/chat/completions -H 'Content-Type: application/json' -d '{
  "messages": [{"role": "user", "content": "Count to 200."}], "max_tokens": 200, "ignore_eos": true
}' > response.json & sleep 1; kill -9 $(vllm-obtain ps --json | jq '.[0].pid'); wait
$ jq .usage.completion_tokens response.json""",
    "$ vllm-obtain ps --json | jq -c '.[0] | {state, restarts}'",
]


def typed(command: str, folder: Path) -> str:
    """Run a command in a terminal of its own and return what it prints."""
    out = StringIO()
    reader, writer = pty.openpty()
    with os.fdopen(reader, "rb", buffering=0) as terminal:
        shell = subprocess.Popen(
            ["/bin/bash", "-c", command],
            cwd=folder,
            env=environment(),
            stdout=writer,
            stderr=writer,
        )
        os.close(writer)
        drain(terminal, out)
        shell.wait()
    return out.getvalue()


def drain(terminal: IO[bytes], out: StringIO) -> None:
    """Read until nobody writes to the terminal any more."""
    while True:
        try:
            piece = terminal.read(65536)
        except OSError:
            return  # Linux reports the end of a terminal as an error.
        if not piece:
            return
        out.write(piece.decode().replace("\r\n", "\n"))


def environment() -> dict[str, str]:
    """The environment of the service and of the commands."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {"PATH": path, "PYTHONPATH": str(ROOT), "PORT": PORT, "LOG_LEVEL": "WARNING"}
    given |= {"COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    return {**os.environ, **given}


def wait_until_ready() -> None:
    """Wait for the service, a minute at most."""
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"{URL}/ready", timeout=2):  # noqa: S310
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"{URL} did not become ready")


def draw(parts: list[tuple[str, str]]) -> str:
    """Draw commands and what they printed."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    for command, printed in parts:
        for line in command.splitlines():
            words = line.removeprefix("$ ")
            console.print(Text("$ " if words != line else "", "bold green"), end="")
            console.print(Text(words, "yellow" if line.startswith("#") else "bold"))
        console.print(Text.from_ansi(printed.rstrip()))
        console.print()
    picture = console.export_svg(title="vllm-obtain", theme=MONOKAI, unique_id="terminal")
    # A page may not load fonts from elsewhere: take the reader's own.
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    return picture.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")


def main() -> None:
    """Run everything and write the picture."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "models").symlink_to((ROOT / "models").resolve())
        log = folder / "printed.txt"
        with log.open("wb") as out:
            service = subprocess.Popen(
                SERVICE, cwd=folder, env=environment(), stdout=out, stderr=out
            )
        try:
            wait_until_ready()
            time.sleep(1)
            parts = [(f"$ LOG_LEVEL=WARNING {START}", log.read_text())]
            for shown in COMMANDS:
                command = shown.replace("URL", URL)
                parts.append((command, typed(re.sub(r"^\$ ", "", command, flags=re.M), folder)))
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(60)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw(parts))
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
