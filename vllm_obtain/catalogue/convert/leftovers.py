"""Removes what a conversion that was killed, or one of an earlier version, left behind."""

from __future__ import annotations

import re
import shutil

from vllm_obtain.catalogue.convert.plan import Plan


def remove_leftovers(todo: Plan) -> None:
    """Remove unfinished folders of this model, and those of its earlier revisions.

    Call it only while holding the model's lock.
    """
    name = rf"(\.partial-)?{re.escape(todo.label)}-[0-9a-f]{{12}}"
    for folder in todo.folder.parent.iterdir():
        if folder != todo.folder and re.fullmatch(name, folder.name, re.ASCII):
            shutil.rmtree(folder, ignore_errors=True)
