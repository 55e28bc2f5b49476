"""What happens to parameters that cannot be honoured: refused by name, or ignored and told.

STRICT_PARAMETERS=false has them ignored; the header X-Ignored-Parameters names them.
"""

from __future__ import annotations

import json
from typing import TypeVar

from msgspec.structs import replace

from vllm_obtain.errors import UnsupportedParameter
from vllm_obtain.protocol.requests import InferenceRequest

Request = TypeVar("Request", bound=InferenceRequest)

# Characters of a name that a header tells.
_LONGEST = 100


class Leniency:
    """Remembers what was ignored in one request.

    Args:
        strict: whether nothing is ever ignored.
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.ignored: list[str] = []

    @property
    def unknown(self) -> list[str] | None:
        """Where fields that nobody knows are noted; None where they are refused."""
        return None if self.strict else self.ignored

    @property
    def told(self) -> str:
        """What was ignored, as a header can hold it: names are whatever a client wrote."""
        return ", ".join(json.dumps(name)[1:-1][:_LONGEST] for name in self.ignored)

    def without(self, request: Request, error: UnsupportedParameter) -> Request:
        """Leave out what an error names.

        Args:
            request: what was asked for.
            error: why it cannot be done.

        Raises:
            UnsupportedParameter: the error itself, if it has to stand.
        """
        name = error.param or ""
        if self.strict or getattr(request, name, None) is None:
            raise error
        self.ignored.append(name)
        return replace(request, **{name: None})
