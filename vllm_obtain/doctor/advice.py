"""What to do: from the engines, the models and the settings to findings, the weightiest first."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from vllm_obtain import _host
from vllm_obtain.doctor import machine
from vllm_obtain.doctor.findings import Finding, ModelRow
from vllm_obtain.engines import detect, openblas, registry
from vllm_obtain.engines.detect_judge import Facts
from vllm_obtain.settings import Settings

_BLAS = "apt-get install libopenblas0-pthread"


def order(settings: Settings) -> tuple[str, ...]:
    """List the built-in engines, the one that comes first on this machine first."""
    return registry.ORDER[registry.order_by(settings, detect.host().machine)]


def fixes(settings: Settings, engines: list[Facts], models: list[ModelRow]) -> Iterator[Finding]:
    """Say what keeps something from working."""
    possible = {"auto", "cpu", detect.host().machine.device}
    if settings.device_type in possible:
        yield from _engines(settings, engines)
    able = any(engine.reason is None for engine in engines)
    if not models:
        text = f"There is no model in {settings.models_dir}. Put a GGUF file there, or start the "
        yield Finding(f"{text}service once, which fetches a small one.", "vllm-obtain serve")
    elif able and not any(model.engine for model in models):
        yield Finding("No model here can be served; the table above says why for each.")
    for name in settings.engine_pins:
        if name.casefold() not in {model.name.casefold() for model in models}:
            yield Finding(f"MODEL_ENGINES names '{name}', and no model here has that name.")
    for name in settings.models.tables:
        if name.casefold() not in {model.name.casefold() for model in models}:
            yield Finding(f"MODEL_SETTINGS names '{name}', and no model here has that name.")


def _engines(settings: Settings, engines: list[Facts]) -> Iterator[Finding]:
    wanted = {settings.inference_engine, *settings.engine_pins.values(), *_named(settings)}
    able = [engine for engine in engines if engine.reason is None]
    for engine in engines:
        # Somebody asked for it by name, or it is there and does not work.
        own = engine.engine in settings.engine_plugins
        if engine.reason and (engine.engine in wanted or engine.installed or own):
            yield _get(engine)
    if not able:
        ways = [engine for engine in engines if engine.install and not engine.installed]
        text = "No engine can run here."
        yield Finding(text, ways[0].install, ways[0].then) if ways else Finding(text)


def _named(settings: Settings) -> set[str]:
    return {each.engine for each in settings.models.tables.values() if each.engine is not None}


def improvements(
    settings: Settings, engines: list[Facts], models: list[ModelRow]
) -> Iterator[Finding]:
    """Say what could be better, though it works."""
    on = detect.host()
    accelerated = on.machine.device != "cpu" and settings.device_type != "cpu"
    if settings.inference_engine == "auto" and accelerated:
        best = engines[0] if engines else None
        if best and best.reason and not best.installed and best.install:
            text = f"{best.engine} uses the GPU best, and is not there: {best.reason}"
            yield Finding(text, best.install, best.then)
    for engine in engines:
        if engine.note:
            yield Finding(f"{engine.engine}: {engine.note}", engine.install, engine.then)
    yield from _of_the_system(engines, models)


def additions(engines: list[Facts]) -> Iterator[Finding]:
    """List the engines that are not installed and could be."""
    return (_get(engine) for engine in engines if engine.install and not engine.installed)


def _of_the_system(engines: list[Facts], models: list[ModelRow]) -> Iterator[Finding]:
    on = detect.host()
    if on.machine.system == "Darwin" and (limit := _wired_limit()):
        share = limit * 2**20 / on.machine.memory_bytes
        yield Finding(
            f"The GPU may wire {share:.0%} of the memory ({machine.WIRED_LIMIT} was set by hand). "
            "Macs have been seen to panic with that; 0 gives the decision back to macOS.",
            f"sudo sysctl {machine.WIRED_LIMIT}=0",
        )
    if on.rosetta:
        yield Finding(
            "This Python was built for Intel Macs and runs under Rosetta, so no engine can use the "
            "GPU. Install one for arm64, and make the environment anew with it."
        )
    if machine.is_wsl(platform.release()):
        yield Finding(
            "WSL gives Linux half of the memory of Windows unless .wslconfig says otherwise "
            "(memory=… in its section [wsl2], then `wsl --shutdown`)."
        )
    for model in models:
        if model.engine and model.size_bytes > on.machine.memory_bytes:
            yield Finding(
                f"'{model.name}' has {model.size_bytes / 2**30:.0f} GiB, more than the memory; "
                "choose one with fewer bits or parameters."
            )
    on_cpu = any(engine.engine == "mlx" and engine.device == "cpu" for engine in engines)
    if on_cpu and on.machine.system == "Linux" and openblas.find() is None:
        yield Finding("mlx reads prompts far faster with OpenBLAS.", _BLAS)


def _get(engine: Facts) -> Finding:
    return Finding(f"{engine.engine}: {engine.reason}", engine.install, engine.then)


def _wired_limit() -> int | None:
    return _host.number(machine.asked().get(machine.WIRED_LIMIT))
