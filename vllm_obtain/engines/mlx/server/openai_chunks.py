"""Renders events as llama.cpp's server does: OpenAI's chunks, and prefill progress."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from .events import Delta, Event, Failure, Finish, Progress
from .http1 import sse

DONE = b"data: [DONE]\n\n"
_PLACEHOLDER = "the text goes here"


class Renderer:
    """Renders the events of one request.

    Args:
        progress: whether the client requested prefill progress.
        choices: number of choices.
    """

    def __init__(self, progress: bool, choices: int = 1) -> None:
        self._progress = progress
        self._open = choices
        self._tokens = 0
        self._common = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": "mlx",
        }
        # Used for every token of every request, so it is encoded once without the text.
        self._text_frames = [self._frame(choice) for choice in range(choices)]

    @property
    def done(self) -> bool:
        """Whether the last event was the end of the request."""
        return not self._open

    def render(self, event: Event) -> bytes:
        """Encode an event; empty if the client did not request it."""
        if isinstance(event, Delta):
            if event.logprobs is None:
                before, after = self._text_frames[event.choice]
                return before + json.dumps(event.text).encode() + after
            return self._chunk(event.choice, event.text, event.logprobs, None)
        if isinstance(event, Progress):
            return self._progress_chunk(event) if self._progress else b""
        if isinstance(event, Failure):
            self._open = 0
            return sse({"error": {"message": event.message, "type": "server_error", "code": 500}})
        self._open -= 1
        self._tokens += event.completion_tokens
        end = self._chunk(event.choice, "", None, event.reason, event.stop)
        return end if self._open else end + self._usage(event) + DONE

    def _progress_chunk(self, event: Progress) -> bytes:
        progress = {
            "total": event.total,
            "processed": event.processed,
            "cache": event.cached,
        }
        return sse({**self._common, "choices": [], "prompt_progress": progress})

    def _chunk(
        self,
        choice: int,
        text: str,
        logprobs: list[dict[str, Any]] | None,
        end: str | None,
        stop: str | None = None,
    ) -> bytes:
        choice_object: dict[str, Any] = {
            "index": choice,
            "text": text,
            "logprobs": None if logprobs is None else {"content": logprobs},
            "finish_reason": end,
        }
        if stop is not None:
            choice_object["stop_reason"] = stop  # vLLM's field
        return sse({**self._common, "choices": [choice_object]})

    def _frame(self, choice: int) -> tuple[bytes, bytes]:
        before, _, after = self._chunk(choice, _PLACEHOLDER, None, None).partition(
            f'"{_PLACEHOLDER}"'.encode()
        )
        return before, after

    def _usage(self, end: Finish) -> bytes:
        usage = {
            "prompt_tokens": end.prompt_tokens,
            "completion_tokens": self._tokens,
            "total_tokens": end.prompt_tokens + self._tokens,
            "prompt_tokens_details": {"cached_tokens": end.cached_tokens},
        }
        return sse({**self._common, "choices": [], "usage": usage})
