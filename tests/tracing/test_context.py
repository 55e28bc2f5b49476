"""`traceparent` and `tracestate`: what is valid, and what is passed on."""

from __future__ import annotations

import pytest

from vllm_obtain.tracing import context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"


def test_it_is_read_and_written() -> None:
    found = context.read(f" {VALID} ", "vendor=1,other=2")
    assert found == context.ParentContext(TRACE, SPAN, "01", "vendor=1,other=2")
    assert found.headers == {"traceparent": VALID, "tracestate": "vendor=1,other=2"}


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    found = context.read(f"01-{TRACE}-{SPAN}-01-more", "")
    assert found is not None and found.headers == {"traceparent": VALID}


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        VALID + "\r\nX: y",
    ],
)
def test_what_is_not_valid_is_as_if_it_were_not_there(parent: str) -> None:
    assert context.read(parent, "a=b") is None


@pytest.mark.parametrize("state", ["", "a=b\r\nX: y", "a" * 600, "ä=b"])
def test_a_state_that_cannot_be_passed_on_is_left_out(state: str) -> None:
    found = context.read(VALID, state)
    assert found is not None and found.headers == {"traceparent": VALID}
