"""Findings about engines, models and settings, the most important first."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from vllm_obtain.config.settings import Settings
from vllm_obtain.doctor import machine
from vllm_obtain.doctor.findings import Finding, ModelRow
from vllm_obtain.engines import registry
from vllm_obtain.engines.detection import detect
from vllm_obtain.engines.detection.verdict import EngineAvailability
from vllm_obtain.engines.mlx import openblas
from vllm_obtain.hardware import host as host_info

_BLAS = "apt-get install libopenblas0-pthread"
_UNKNOWN = "Correct the name, or download the model."


def order(settings: Settings) -> tuple[str, ...]:
    """List the built-in engines in the order of preference on this machine."""
    return registry.ORDER[registry.order_by(settings, detect.host().machine)]


def fixes(
    settings: Settings, engines: list[EngineAvailability], models: list[ModelRow]
) -> Iterator[Finding]:
    """List problems that prevent something from working."""
    possible = {"auto", "cpu", detect.host().machine.device}
    if settings.device_type in possible:
        yield from _engines(settings, engines)
    any_usable = any(engine.reason is None for engine in engines)
    if not models:
        yield Finding(
            f"No model found in {settings.models_dir}. Put a GGUF file there, or start the service "
            "to download a small model.",
            "vllm-obtain serve",
        )
    elif any_usable and not any(model.engine for model in models):
        yield Finding("No local model can be served. The table above gives the reasons.")
    local = {model.name.casefold() for model in models}
    for name in settings.engine_pins:
        if name.casefold() not in local:
            yield Finding(f"MODEL_ENGINES names '{name}', which is not a local model. {_UNKNOWN}")
    for name in settings.models.tables:
        if name.casefold() not in local:
            yield Finding(f"MODEL_SETTINGS names '{name}', which is not a local model. {_UNKNOWN}")


def _engines(settings: Settings, engines: list[EngineAvailability]) -> Iterator[Finding]:
    configured = {settings.inference_engine, *settings.engine_pins.values(), *_named(settings)}
    for engine in engines:
        # An engine that is neither configured nor installed is not a problem.
        plugin = engine.engine in settings.engine_plugins
        if engine.reason and (engine.engine in configured or engine.installed or plugin):
            yield _finding(engine)
    if all(engine.reason is not None for engine in engines):
        options = [engine for engine in engines if engine.install and not engine.installed]
        text = "No engine can run on this machine."
        yield Finding(text, options[0].install, options[0].then) if options else Finding(text)


def _named(settings: Settings) -> set[str]:
    tables = settings.models.tables.values()
    return {table.engine for table in tables if table.engine is not None}


def improvements(
    settings: Settings, engines: list[EngineAvailability], models: list[ModelRow]
) -> Iterator[Finding]:
    """List recommended improvements of a working installation."""
    host = detect.host()
    accelerated = host.machine.device != "cpu" and settings.device_type != "cpu"
    if settings.inference_engine == "auto" and accelerated:
        best = engines[0] if engines else None
        if best and best.reason and not best.installed and best.install:
            text = f"{best.engine} is the preferred engine for this GPU. {best.reason}"
            yield Finding(text, best.install, best.then)
    for engine in engines:
        if engine.note:
            yield Finding(f"{engine.engine}: {engine.note}", engine.install, engine.then)
    yield from _system(engines, models)


def additions(engines: list[EngineAvailability]) -> Iterator[Finding]:
    """List the engines that are not installed and can be installed."""
    return (_finding(engine) for engine in engines if engine.install and not engine.installed)


def _system(engines: list[EngineAvailability], models: list[ModelRow]) -> Iterator[Finding]:
    host = detect.host()
    if host.machine.system == "Darwin" and (limit := _wired_limit()):
        share = limit * 2**20 / host.machine.memory_bytes
        yield Finding(
            f"{machine.WIRED_LIMIT} was set manually and lets the GPU wire {share:.0%} of the "
            "memory. This can cause a kernel panic. Set it to 0 to restore the macOS default.",
            f"sudo sysctl {machine.WIRED_LIMIT}=0",
        )
    if host.rosetta:
        yield Finding(
            "This Python was built for Intel Macs and runs under Rosetta, so no engine can use the "
            "GPU. Install Python for arm64 and recreate the virtual environment."
        )
    if machine.is_wsl(platform.release()):
        yield Finding(
            "WSL limits Linux to half of the memory by default. To change this, set memory=… in "
            "the section [wsl2] of .wslconfig, then run `wsl --shutdown`."
        )
    for model in models:
        if model.engine and model.size_bytes > host.machine.memory_bytes:
            yield Finding(
                f"'{model.name}' is larger ({model.size_bytes / 2**30:.0f} GiB) than the memory. "
                "Use a smaller model or a stronger quantization."
            )
    on_cpu = any(engine.engine == "mlx" and engine.device == "cpu" for engine in engines)
    if on_cpu and host.machine.system == "Linux" and openblas.find() is None:
        yield Finding("mlx: prefill on the CPU is much faster with OpenBLAS.", _BLAS)


def _finding(engine: EngineAvailability) -> Finding:
    return Finding(f"{engine.engine}: {engine.reason}", engine.install, engine.then)


def _wired_limit() -> int | None:
    return host_info.number(machine.sysctl_values().get(machine.WIRED_LIMIT))
