"""Completions for the fake engine's switch `script`."""

from __future__ import annotations

import json
from typing import Any

from vllm_obtain.chat.tool_prompt import FORMAT


def call(name: str, **arguments: Any) -> str:
    """A tool call, as a model without a tool template writes it."""
    return FORMAT.write([(name, json.dumps(arguments))])
