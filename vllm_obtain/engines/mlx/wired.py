"""Keeps wired memory as macOS has it.

`mx.set_wired_limit` under concurrent load is the best lead for panics of the whole machine
(mlx-lm#883, mlx#3186), and mlx-lm calls it by itself, in its generators and in its server.
"""

from __future__ import annotations

import importlib
from typing import Any, NoReturn

import mlx.core as mx


class WiredLimitForbidden(RuntimeError):
    """Something tried to change the wired limit."""


def _refuse(*_: object, **__: object) -> NoReturn:
    raise WiredLimitForbidden("mx.set_wired_limit is never called here; see wired.py")


def _leave_alone() -> None:
    """Stand in for mlx-lm's function: None tells its callers that nothing was changed."""


def forbid() -> None:
    """Make mlx-lm leave the limit alone, and everybody else fail who tries to set it."""
    mx.set_wired_limit = _refuse
    # By its full name: `mlx_lm.generate`, the attribute, is a function.
    generate: Any = importlib.import_module("mlx_lm.generate")
    generate.maybe_set_recommended_wired_limit = _leave_alone
