from __future__ import annotations

import pytest

from vllm_obtain.engines.stream_parser import SSEDecoder
from vllm_obtain.protocol.sse import DONE, event, named

STREAM = (
    b": a comment\n\n"
    b'data: {"a": "\xc3\xa4"}\n\n'
    b"event: x\nid: 5\ndata: two\n\n"
    b"data:three\r\n\r\n"
    b"data: four\ndata: five\n\n"
    b"retry: 10\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = [b'{"a": "\xc3\xa4"}', b"two", b"three", b"four\nfive", b"[DONE]"]


@pytest.mark.parametrize("size", range(1, 20))
def test_events_are_cut_wherever_the_reads_fell(size: int) -> None:
    splitter = SSEDecoder()
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [data for piece in pieces for data in splitter.feed(piece)] == EVENTS


def test_an_event_that_is_not_complete_waits() -> None:
    splitter = SSEDecoder()
    assert splitter.feed(b"data: x\n") == []
    assert splitter.feed(b"") == []
    assert splitter.feed(b"\ndata: y") == [b"x"]
    assert splitter.feed(b"\nd") == []
    assert splitter.feed(b"ata: z\n\n") == [b"y\nz"]


def test_an_event_on_its_own_is_what_it_is_among_others() -> None:
    splitter = SSEDecoder()
    for alone, data in (
        (b"data: x\n\n", [b"x"]),
        (b"data: x\r\n\n", [b"x"]),
        (b"data:x\n\n", [b"x"]),
        (b"id: x\n\n", []),
    ):
        assert splitter.feed(alone) == data, alone
        assert splitter.feed(alone * 2) == data * 2, alone


def test_writing() -> None:
    assert event({"text": "a\nb\u2028ä"}) == 'data: {"text":"a\\nb\u2028ä"}\n\n'.encode()
    assert SSEDecoder().feed(event({"a": "\n\n"}) + DONE) == [b'{"a":"\\n\\n"}', b"[DONE]"]


def test_an_event_can_have_a_name() -> None:
    assert named("ping", {"a": "\n"}) == b'event: ping\ndata: {"a":"\\n"}\n\n'
