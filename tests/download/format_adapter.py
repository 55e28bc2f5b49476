"""A fake engine whose faults are said by the model's own file, so that a new version has others.

The name in the GGUF header is the JSON of `Switches`.
"""

from __future__ import annotations

import json
from typing import Any

from tests.fake_engine import FakeAdapter
from tests.fake_engine_server import Switches
from tests.models.gguf_files import gguf_bytes
from vllm_obtain.models import Model


class PickyAdapter(FakeAdapter):
    """The fake engine, told by the file itself what to do."""

    name = "picky"

    def switches(self, model: Model) -> str:
        """The switches in the header."""
        return (model.header.name if model.header else None) or "{}"


def model(template: str = "{{ messages[0].content }}", **switches: Any) -> bytes:
    """A model with this chat template, whose engine behaves so."""
    Switches(**switches)
    return gguf_bytes(
        {"general.name": json.dumps(switches, default=str), "tokenizer.chat_template": template}
    )
