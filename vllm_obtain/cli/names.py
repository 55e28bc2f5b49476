"""What the shell offers when a name is begun; whatever goes wrong, it offers nothing."""

from __future__ import annotations

from contextlib import suppress


def here(incomplete: str) -> list[str]:
    """List the models on this machine's disk that begin so.

    Args:
        incomplete: what is typed already.
    """
    with suppress(Exception):
        from vllm_obtain.catalogue import Catalogue
        from vllm_obtain.settings import load_settings

        settings = load_settings()
        models = Catalogue(settings.models_dir, table=settings.models).models()
        return _that_begin(incomplete, [model.name for model in models])
    return []


def known(incomplete: str) -> list[str]:
    """List the names that can be pulled that begin so.

    Args:
        incomplete: what is typed already.
    """
    with suppress(Exception):
        from vllm_obtain.fetching.known import load
        from vllm_obtain.settings import load_settings

        return _that_begin(incomplete, list(load(load_settings().models_dir).models))
    return []


def engines(incomplete: str) -> list[str]:
    """List the engines that begin so."""
    from vllm_obtain.engines.registry import BUILT_IN

    return _that_begin(incomplete, [*BUILT_IN, "auto"])


def _that_begin(incomplete: str, names: list[str]) -> list[str]:
    begun = incomplete.casefold()
    return [name for name in names if name.casefold().startswith(begun)]
