"""`verify`: compare downloaded models with the checksums in their manifests."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Console

from vllm_obtain.cli.api_client import ApiError, Service, fail
from vllm_obtain.config.settings import load_settings
from vllm_obtain.download import verify
from vllm_obtain.errors import ServiceError, SettingsError


def verify_local(name: str) -> list[dict[str, Any]]:
    """Verify models on this machine.

    Args:
        name: model name; empty for all downloaded models.
    """
    try:
        names = [name] if name else []
        verdicts: list[dict[str, Any]] = msgspec.to_builtins(
            verify.verify_models(load_settings().models_dir, names)
        )
    except (ServiceError, SettingsError) as error:
        raise fail(error) from None
    return verdicts


def verify_remote(service: Service, name: str) -> list[dict[str, Any]]:
    """Verify models of a remote service, as `verify_local`."""
    try:
        verdicts: list[dict[str, Any]] = service.request(
            "POST", "/v1/models/verify", {"model": name} if name else {}
        )["data"]
    except ApiError as error:
        raise fail(error) from None
    return verdicts


def show_verdicts(verdicts: list[dict[str, Any]]) -> None:
    """Print the verdict for each model."""
    out = Console(highlight=False)
    if not verdicts:
        out.print("No model was downloaded with `pull`.")
    for verdict in verdicts:
        state = "damaged" if verdict["faults"] else "OK"
        out.print(f"{verdict['name']}: {state}", markup=False)
        for fault in verdict["faults"]:
            out.print(f"  {fault}", markup=False)
        if verdict["faults"]:
            command = f"vllm-obtain pull {verdict['asked']} --force"
            out.print(f"  Download it again: {command}", markup=False)
