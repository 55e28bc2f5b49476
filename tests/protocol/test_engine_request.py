"""How long a prompt can be, before anybody has counted its tokens."""

from __future__ import annotations

import pytest

from vllm_obtain.protocol.engine_request import EngineRequest
from vllm_obtain.protocol.sampling_params import SamplingParams

PARAMS = SamplingParams.resolve({})


@pytest.mark.parametrize(("text", "size"), [("", 0), ("abc", 3), ("äöü", 6), ("🙂", 4)])
def test_bytes_bound_the_tokens(text: str, size: int) -> None:
    empty = EngineRequest("", PARAMS).length
    assert empty >= 0
    assert EngineRequest(text, PARAMS).length == empty + size
    assert EngineRequest([1] * (size + 1), PARAMS).length == empty + size + 1
