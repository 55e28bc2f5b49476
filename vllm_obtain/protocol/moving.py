"""Lines that a client writes anew for every request, where a prompt should stay the same.

An engine keeps what it computed for the beginning of a prompt. A line there that differs each
time makes it compute everything behind it again: with a coding agent's prompt, minutes a turn.
"""

from __future__ import annotations

from vllm_obtain.protocol.conversation import Content, ImagePart, TextPart

# Beginnings of such lines, in lower case. They tell the client's maker who pays, and nothing to a
# model.
MOVING = ("x-anthropic-billing-header:",)


def steady(text: str) -> str:
    """Leave out the moving lines that a system prompt begins with.

    Args:
        text: a system prompt; such a line further down is somebody's own text, and stays.

    Returns:
        The rest, unchanged.
    """
    while text[:64].lower().startswith(MOVING):
        _, _, text = text.partition("\n")
    return text


def steady_content(content: Content) -> Content:
    """Leave out the moving lines of a system message, which may be in parts.

    Args:
        content: of a system message at the beginning of a conversation.

    Returns:
        The same without them, and without parts that held nothing else.
    """
    if isinstance(content, str):
        return steady(content)
    return [part for part in map(_steady_part, content) if part is not None] or ""


def _steady_part(part: TextPart | ImagePart) -> TextPart | ImagePart | None:
    if isinstance(part, ImagePart) or (text := steady(part.text)) == part.text:
        return part
    return TextPart(text) if text else None
