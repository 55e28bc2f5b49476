"""A fake engine whose faults are said by the model's own file, so that a new version has others.

The name in the GGUF header is the JSON of `Switches`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests import fake_engine_server
from tests.catalogue.gguf_files import gguf_bytes
from tests.fake_engine import FakeAdapter
from tests.fake_engine_server import Switches
from vllm_obtain.catalogue import Model
from vllm_obtain.engines.base import Launch
from vllm_obtain.hardware import Machine
from vllm_obtain.messages import Limits
from vllm_obtain.settings import Settings


class PickyAdapter(FakeAdapter):
    """The fake engine, told by the file itself what to do."""

    name = "picky"

    def launch(
        self,
        model: Model,
        settings: Settings,  # noqa: ARG002 - an adapter's signature
        machine: Machine,  # noqa: ARG002 - an adapter's signature
        socket: Path,
    ) -> Launch:
        """Start `fake_engine_server` with the switches in the header."""
        switches = socket.with_suffix(".json")
        switches.write_text((model.header.name if model.header else None) or "{}")
        said = Switches.read(switches)
        command = [sys.executable, "-P", "-S", fake_engine_server.__file__]
        return Launch(
            [*command, str(socket), str(switches)],
            Limits(said.slots, said.pool_tokens, said.context),
        )


def model(template: str = "{{ messages[0].content }}", **switches: Any) -> bytes:
    """A model with this chat template, whose engine behaves so."""
    Switches(**switches)
    return gguf_bytes(
        {"general.name": json.dumps(switches, default=str), "tokenizer.chat_template": template}
    )
