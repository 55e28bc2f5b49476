"""Verifies the checksums of downloaded models against their manifests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from vllm_obtain.download import manifest as manifests
from vllm_obtain.download.bundled_model import EMBEDDED
from vllm_obtain.errors import NotFetched


class VerifyResult(Struct, frozen=True):
    """The result of a verification.

    Args:
        name: the model's name.
        asked: the requested reference.
        source: the source of the download.
        faults: one short description per damaged file; empty if the model is intact.
    """

    name: str
    asked: str
    source: str
    faults: list[str]


def verify_models(models_dir: Path, names: Sequence[str] = ()) -> list[VerifyResult]:
    """Verify the files of downloaded models.

    Args:
        models_dir: MODELS_DIR.
        names: the models to verify, case-insensitive; empty for all downloaded models.

    Raises:
        NotFetched: one of the models was not downloaded.
    """
    missing = {name.casefold(): name for name in names}
    folders = sorted(path for path in models_dir.glob("*") if path.is_dir() and path.name[0] != ".")
    selected = [path for path in folders if not names or path.name.casefold() in missing]
    results = [result for folder in selected for result in _verify(folder)]
    for result in results:
        missing.pop(result.name.casefold(), None)
    if missing:
        raise NotFetched(
            f"'{next(iter(missing.values()))[:200]}' was not downloaded with `pull`, so it has no "
            "checksums to verify. Download it with `pull`."
        )
    return results


def _verify(folder: Path) -> Iterator[VerifyResult]:
    if (manifest := manifests.read(folder)) is not None:
        faults = list(manifests.faults(folder, manifest))
        yield VerifyResult(folder.name, manifest.asked, manifest.source, faults)
    elif folder.name == EMBEDDED.name and EMBEDDED.path(folder.parent).is_file():
        intact = EMBEDDED.is_intact(folder.parent)
        faults = [] if intact else [f"{EMBEDDED.path(folder.parent).name} has a wrong checksum"]
        yield VerifyResult(folder.name, folder.name, f"pypi:{EMBEDDED.requirement}", faults)
