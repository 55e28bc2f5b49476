from __future__ import annotations

import struct

import pytest

from vllm_obtain.control.framing import MAX_FRAME, BrokenFrame, FrameDecoder, frame
from vllm_obtain.control.messages import AdjustReservation, Status


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_frames_are_cut_wherever_the_reads_fell(size: int) -> None:
    sent = frame(AdjustReservation(1)) + frame(Status()) + frame(AdjustReservation(2**40))
    frames = FrameDecoder()
    pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
    bodies = [body for piece in pieces for body in frames.feed(piece)]
    assert bodies == [
        frame(message)[4:] for message in (AdjustReservation(1), Status(), AdjustReservation(2**40))
    ]


def test_an_empty_frame() -> None:
    assert FrameDecoder().feed(b"\0\0\0\0") == [b""]


def test_a_frame_too_large() -> None:
    frames = FrameDecoder()
    assert frames.feed(struct.pack(">I", MAX_FRAME) + b"x") == []
    with pytest.raises(BrokenFrame):
        FrameDecoder().feed(struct.pack(">I", MAX_FRAME + 1))
