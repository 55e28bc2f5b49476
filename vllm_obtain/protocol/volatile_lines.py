"""Strips volatile header lines that would defeat prefix caching.

Some clients put a line that changes with every request at the beginning of the system prompt. The
engine would have to prefill everything after it again: minutes per request for a coding agent.
"""

from __future__ import annotations

from vllm_obtain.protocol.messages import Content, ImagePart, TextPart

# Prefixes of such lines, in lower case. They contain billing data that a model does not need.
VOLATILE = ("x-anthropic-billing-header:",)
# A client sends one. Millions would block the worker.
_MAX_LINES = 64


def strip_volatile_lines(text: str) -> str:
    """Remove volatile lines from the beginning of a system prompt.

    Args:
        text: a system prompt; such lines further down belong to the text and stay.

    Returns:
        The rest, unchanged.
    """
    start = 0
    for _ in range(_MAX_LINES):
        if not text[start : start + 64].lower().startswith(VOLATILE):
            break
        # Without a line break, the rest of the text is such a line.
        start = text.find("\n", start) + 1 or len(text)
    return text[start:]


def strip_volatile_content(content: Content) -> Content:
    """Remove volatile lines from a system message, which may consist of parts.

    Args:
        content: content of a system message at the beginning of a chat.

    Returns:
        The content without these lines, and without parts that have no other text.
    """
    if isinstance(content, str):
        return strip_volatile_lines(content)
    return [part for part in map(_strip_part, content) if part is not None] or ""


def _strip_part(part: TextPart | ImagePart) -> TextPart | ImagePart | None:
    if isinstance(part, ImagePart) or (text := strip_volatile_lines(part.text)) == part.text:
        return part
    return TextPart(text) if text else None
