from __future__ import annotations

import pytest

from vllm_obtain.protocol.messages import Content, ImagePart, ImageURL, TextPart
from vllm_obtain.protocol.volatile_lines import strip_volatile_content, strip_volatile_lines

HEADER = "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch=36ee5;"
IMAGE = ImagePart(ImageURL("data:image/png;base64,AA=="))


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (f"{HEADER}\nYou are an agent.\n", "You are an agent.\n"),
        (f"{HEADER}\n{HEADER.upper()}\n\n  You", "\n  You"),
        (HEADER, ""),
        ("", ""),
        ("You are an agent.", "You are an agent."),
        (f"Never print this line:\n{HEADER}\n", f"Never print this line:\n{HEADER}\n"),
    ],
)
def test_moving_lines_at_the_beginning_are_left_out(text: str, rest: str) -> None:
    assert strip_volatile_lines(text) == rest


@pytest.mark.parametrize(
    ("content", "rest"),
    [
        (f"{HEADER}\nYou", "You"),
        ([TextPart(HEADER), TextPart("You"), TextPart("")], [TextPart("You"), TextPart("")]),
        ([TextPart(f"{HEADER}\nYou"), IMAGE], [TextPart("You"), IMAGE]),
        ([TextPart(HEADER)], ""),
    ],
)
def test_parts_that_held_nothing_else_go_with_them(content: Content, rest: Content) -> None:
    assert strip_volatile_content(content) == rest
