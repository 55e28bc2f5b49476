"""What `verify` prints of models that were compared with their manifests."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Console

from vllm_obtain.cli.client import Refused, Service, fail
from vllm_obtain.errors import ServiceError, SettingsError
from vllm_obtain.fetching import verifying
from vllm_obtain.settings import load_settings


def here(name: str) -> list[dict[str, Any]]:
    """Compare one model of this machine, or all.

    Args:
        name: of the one; empty for all that were fetched.
    """
    try:
        names = [name] if name else []
        found: list[dict[str, Any]] = msgspec.to_builtins(
            verifying.verdicts(load_settings().models_dir, names)
        )
    except (ServiceError, SettingsError) as error:
        raise fail(error) from None
    return found


def there(service: Service, name: str) -> list[dict[str, Any]]:
    """Have a service do the same with its own."""
    try:
        found: list[dict[str, Any]] = service.ask(
            "POST", "/v1/models/verify", {"model": name} if name else {}
        )["data"]
    except Refused as error:
        raise fail(error) from None
    return found


def show_verdicts(found: list[dict[str, Any]]) -> None:
    """Print what was found."""
    out = Console(highlight=False)
    if not found:
        out.print("Nothing here was fetched by `pull`.")
    for each in found:
        out.print(
            f"{each['name']}: {'as fetched' if not each['faults'] else 'damaged'}", markup=False
        )
        for fault in each["faults"]:
            out.print(f"  {fault}", markup=False)
        if each["faults"]:
            out.print(f"  Fetch it again: vllm-obtain pull {each['asked']} --force", markup=False)
