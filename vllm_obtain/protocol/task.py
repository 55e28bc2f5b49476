"""What an engine is asked: a prompt, how to draw, and what the answer has to look like."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_obtain.protocol.requests import ChatRequest, InferenceRequest

# What a prompt's special tokens may add to the tokens of its text.
_AROUND = 8


@dataclass(frozen=True, slots=True)
class Task:
    """A request made ready for any engine.

    Args:
        request: how to draw and when to end.
        prompt: a text or token ids. A conversation's text has all its special tokens in it.
        bos: the token at the beginning of a conversation's text that a GGUF engine puts there too.
        grammar: what the answer must look like (see `chat/grammar.py`), if anything.
    """

    request: InferenceRequest
    prompt: str | list[int] | list[int | str]
    bos: str = ""
    grammar: str | None = None

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is a conversation."""
        return isinstance(self.request, ChatRequest)

    @property
    def length(self) -> int:
        """A bound of the prompt's tokens: a tokenizer never makes more than there are bytes."""
        prompt = self.prompt
        if not isinstance(prompt, str):
            return len(prompt) + _AROUND
        # ASCII is by far the most common and needs no copy.
        return (len(prompt) if prompt.isascii() else len(prompt.encode())) + _AROUND
