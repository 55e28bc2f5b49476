"""Events as llama.cpp's server would send them: OpenAI's chunks, and progress in the prompt."""

from __future__ import annotations

import time
import uuid
from typing import Any

from .events import Delta, Event, Finish, Progress
from .http import sse

DONE = b"data: [DONE]\n\n"


class Renderer:
    """Shapes the events of one request.

    Args:
        chat: whether it is a chat, or else a text completion.
        progress: whether the client wants to hear how far the prompt is.
    """

    def __init__(self, chat: bool, progress: bool) -> None:
        self._chat = chat
        self._progress = progress
        self._common = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": "mlx",
        }

    def render(self, event: Event) -> bytes:
        """Encode an event; nothing if the client did not ask for it."""
        if isinstance(event, Progress):
            return self._told_progress(event) if self._progress else b""
        if isinstance(event, Delta):
            return self._choice(event.text, event.logprobs, None)
        return self._choice("", None, event.reason) + self._usage(event) + DONE

    def _told_progress(self, event: Progress) -> bytes:
        progress = {
            "total": event.total,
            "processed": event.processed,
            "cache": event.cached,
        }
        return sse({**self._common, "choices": [], "prompt_progress": progress})

    def _choice(self, text: str, logprobs: list[dict[str, Any]] | None, end: str | None) -> bytes:
        new: dict[str, Any] = {"text": text}
        if self._chat:
            new = {"delta": {"content": text} if text else {}}
        choice = {
            "index": 0,
            **new,
            "logprobs": None if logprobs is None else {"content": logprobs},
            "finish_reason": end,
        }
        return sse({**self._common, "choices": [choice]})

    def _usage(self, end: Finish) -> bytes:
        usage = {
            "prompt_tokens": end.prompt_tokens,
            "completion_tokens": end.completion_tokens,
            "total_tokens": end.prompt_tokens + end.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": end.cached_tokens},
        }
        return sse({**self._common, "choices": [], "usage": usage})
