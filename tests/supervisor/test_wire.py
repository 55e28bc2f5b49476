from __future__ import annotations

import struct

import pytest

from vllm_obtain.messages import Settle, Status
from vllm_obtain.supervisor.wire import MAX_FRAME, BrokenFrame, Frames, frame


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_frames_are_cut_wherever_the_reads_fell(size: int) -> None:
    sent = frame(Settle(1)) + frame(Status()) + frame(Settle(2**40))
    frames = Frames()
    pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
    bodies = [body for piece in pieces for body in frames.feed(piece)]
    assert bodies == [frame(message)[4:] for message in (Settle(1), Status(), Settle(2**40))]


def test_an_empty_frame() -> None:
    assert Frames().feed(b"\0\0\0\0") == [b""]


def test_a_frame_too_large() -> None:
    frames = Frames()
    assert frames.feed(struct.pack(">I", MAX_FRAME) + b"x") == []
    with pytest.raises(BrokenFrame):
        Frames().feed(struct.pack(">I", MAX_FRAME + 1))
