"""`python -m bench.request_path`: what code one streamed chat passes through.

Counts the files of `vllm_obtain` whose functions run, the moves from one file to another, and the
generators that each token passes, in the gateway and in the supervisor. The model is loaded, and
the same request was served before. Background tasks of the supervisor may add to its counts.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bench.service import ROOT

PACKAGE = str(ROOT / "vllm_obtain") + os.sep
MODEL = "smollm2-135m"
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Count to five."}],
    "max_tokens": 4,
    "stream": True,
}
# Where a profiled supervisor writes its path.
OUTPUT = "BENCH_REQUEST_PATH"
_START_SECONDS = 60.0


@dataclass(frozen=True)
class CodePath:
    """What one process ran.

    Args:
        files: distinct files.
        moves: calls of a function in another file than that of the call before.
        calls: Python calls, generators that resume included.
        reads: reads of the engine's output; each one after the first tokens takes 5 moves.
        frames: generators that resume for one token; 0 where no tokens are counted.
    """

    files: int
    moves: int
    calls: int
    reads: int = 0
    frames: int = 0


class Recorder:
    """Records the files of our package whose functions are called in this thread."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.functions: list[str] = []
        self.generators = 0

    def start(self) -> None:
        """Start to record."""
        sys.setprofile(self._profile)

    def stop(self) -> None:
        """Stop."""
        sys.setprofile(None)

    def path(self, frames: int = 0) -> CodePath:
        """Sum up."""
        moves = sum(a != b for a, b in zip(self.files, self.files[1:], strict=False))
        reads = self.functions.count("EngineConnection._read")
        return CodePath(len(set(self.files)), moves, len(self.files), reads, frames)

    def calls(self) -> Iterator[str]:
        """Yield a line per call: the file, if it changes, and the function."""
        before = ""
        for file, function in zip(self.files, self.functions, strict=True):
            yield f"{'' if file == before else file.removeprefix(PACKAGE):48}{function}"
            before = file

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        self.files.append(frame.f_code.co_filename)
        self.functions.append(frame.f_code.co_qualname)
        if frame.f_code.co_flags & inspect.CO_GENERATOR:
            self.generators += 1


def measure(port: int = 18_099, trace: bool = False) -> dict[str, CodePath]:
    """Send one request to a warm service in this process, and return the path per process.

    Args:
        port: names the instance; nothing listens there.
        trace: whether to print each call in the gateway.
    """
    with tempfile.TemporaryDirectory() as folder, _supervisor(port, Path(folder)) as output:
        # Imported here: a profiled supervisor does without.
        from vllm_obtain.config.settings import Settings
        from vllm_obtain.gateway.app import create_app

        app = create_app(Settings.load(_settings(port, Path(folder))))
        client = app.test_client()
        for _ in range(3):
            assert b"[DONE]" in client.post("/v1/chat/completions", json=BODY).data
        pid = client.get("/v1/system/status").json["supervisor"]["pid"]
        _signal(pid, output, signal.SIGUSR1)
        recorder = Recorder()
        frames: list[int] = []
        recorder.start()
        response = client.post("/v1/chat/completions", json=BODY, buffered=False)
        before = recorder.generators
        for _ in response.response:
            frames.append(recorder.generators - before)
            before = recorder.generators
        response.close()
        recorder.stop()
        _signal(pid, output, signal.SIGUSR2)
        body = json.loads(output.read_text())
        if trace:
            print(*recorder.calls(), "", sep="\n")
        middle = sorted(frames[2:-2])[len(frames[2:-2]) // 2]
        return {"gateway": recorder.path(middle), "supervisor": CodePath(**body)}


def _settings(port: int, folder: Path) -> dict[str, str]:
    return {
        "PORT": str(port),
        "MODELS_DIR": str(ROOT / "models"),
        "LOG_DIR": str(folder),
        "INFERENCE_ENGINE": "llama_cpp",
        "LOG_LEVEL": "ERROR",
    }


@contextlib.contextmanager
def _supervisor(port: int, folder: Path) -> Iterator[Path]:
    """Run a supervisor that records on signals; yields the file that it writes."""
    from vllm_obtain.config.settings import Settings
    from vllm_obtain.control import runtime_dir
    from vllm_obtain.control.owners import start_time

    settings = Settings.load(_settings(port, folder))
    runtime_dir.prepare(port)
    output = folder / "path.json"
    env = {**os.environ, **settings.environ(), OUTPUT: str(output), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench.request_path", "--supervisor"]
    subprocess.run(
        [*command, str(os.getpid()), repr(start_time(os.getpid()) or 0.0)], env=env, check=True
    )
    try:
        yield output
    finally:
        from vllm_obtain.control.client import ControlConnection
        from vllm_obtain.control.messages import StopSupervisor

        with ControlConnection(runtime_dir.folder(port) / runtime_dir.CONTROL) as connection:
            connection.send(StopSupervisor())
            connection.socket.settimeout(10)
            while connection.socket.recv(4096):
                pass


def _signal(pid: int, output: Path, number: int) -> None:
    """Send a signal to the supervisor and wait until it has been handled."""
    output.unlink(missing_ok=True)
    os.kill(pid, number)
    end = time.monotonic() + 10
    while not output.exists():
        assert time.monotonic() < end, "the supervisor did not handle the signal"
        time.sleep(0.01)


def _run_supervisor(arguments: list[str]) -> None:
    recorder, output = Recorder(), Path(os.environ[OUTPUT])

    def start(*_: object) -> None:
        output.write_text("{}")
        recorder.start()

    def stop(*_: object) -> None:
        recorder.stop()
        written = output.with_suffix(".new")
        written.write_text(json.dumps(asdict(recorder.path())))
        written.rename(output)

    signal.signal(signal.SIGUSR1, start)
    signal.signal(signal.SIGUSR2, stop)
    from vllm_obtain.supervisor.__main__ import main

    sys.argv = [sys.argv[0], *arguments]
    main()


def main() -> None:
    """Print the table, or JSON with `--json`."""
    if sys.argv[1:2] == ["--supervisor"]:
        _run_supervisor(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m bench.request_path")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--trace", action="store_true", help="print each call in the gateway")
    parser.add_argument("--port", type=int, default=18_099, help="names the instance (18099)")
    arguments = parser.parse_args()
    os.environ["LOG_LEVEL"] = "ERROR"
    measured = measure(arguments.port, arguments.trace)
    if arguments.json:
        print(json.dumps({name: asdict(path) for name, path in measured.items()}))
        sys.stdout.flush()
        os._exit(0)  # the reporter's thread would start another supervisor
    print(f"{'':12}{'files':>8}{'moves':>8}{'calls':>8}{'reads':>8}{'frames per token':>20}")
    for name, path in measured.items():
        counts = f"{path.files:>8}{path.moves:>8}{path.calls:>8}{path.reads or '':>8}"
        print(f"{name:12}{counts}{path.frames or '':>20}")
    sys.stdout.flush()
    os._exit(0)  # as above


if __name__ == "__main__":
    main()
