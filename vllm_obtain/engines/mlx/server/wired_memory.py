"""Prevents changes to the wired memory limit of macOS.

`mx.set_wired_limit` under concurrent load is the likely cause of kernel panics (mlx-lm#883,
mlx#3186). mlx-lm calls it in its generators and in its server.
"""

from __future__ import annotations

import importlib
from typing import Any, NoReturn

import mlx.core as mx


class WiredLimitForbidden(RuntimeError):
    """Code tried to change the wired limit."""


def _refuse(*_: object, **__: object) -> NoReturn:
    raise WiredLimitForbidden("mx.set_wired_limit is not allowed; see wired_memory.py")


def _keep_wired_limit() -> None:
    """Replace mlx-lm's function; returning None means that the limit is unchanged."""


def forbid() -> None:
    """Disable mlx-lm's change of the limit, and raise an error for any other caller."""
    mx.set_wired_limit = _refuse
    # import_module, because the attribute `mlx_lm.generate` is a function.
    generate: Any = importlib.import_module("mlx_lm.generate")
    generate.maybe_set_recommended_wired_limit = _keep_wired_limit
