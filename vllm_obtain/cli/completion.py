"""Shell completion of models and engines. Errors yield no completions."""

from __future__ import annotations

from contextlib import suppress


def local_models(incomplete: str) -> list[str]:
    """List the models on this machine.

    Args:
        incomplete: prefix, in any case.
    """
    with suppress(Exception):
        from vllm_obtain.config.settings import load_settings
        from vllm_obtain.models import ModelCatalog

        settings = load_settings()
        models = ModelCatalog(settings.models_dir, table=settings.models).models()
        return _with_prefix(incomplete, [model.name for model in models])
    return []


def library_models(incomplete: str) -> list[str]:
    """List the model names that `pull` knows.

    Args:
        incomplete: prefix, in any case.
    """
    with suppress(Exception):
        from vllm_obtain.config.settings import load_settings
        from vllm_obtain.download.library import load

        return _with_prefix(incomplete, list(load(load_settings().models_dir).models))
    return []


def engines(incomplete: str) -> list[str]:
    """List the built-in engines and `auto`.

    Args:
        incomplete: prefix, in any case.
    """
    from vllm_obtain.engines.registry import BUILT_IN

    return _with_prefix(incomplete, [*BUILT_IN, "auto"])


def _with_prefix(incomplete: str, names: list[str]) -> list[str]:
    prefix = incomplete.casefold()
    return [name for name in names if name.casefold().startswith(prefix)]
